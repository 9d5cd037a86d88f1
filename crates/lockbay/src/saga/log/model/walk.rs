//! Larger sagas at random: definitions of up to twelve steps, and walks with many faults.

use std::time::Duration;

use proptest::prelude::*;

use super::super::SagaStatus;
use super::explore::{Way, moves};
use super::run::Run;
use super::sagas::{Graph, POLICIES, Saga, Scope, request};
use crate::saga::definition::Definition;

/// A graph without circles whose steps stand in any order.
fn any_graph() -> impl Strategy<Value = Graph> {
    (1..=12_usize)
        .prop_flat_map(|steps| {
            let places: Vec<usize> = (0..steps).collect();
            let edges = prop::collection::vec(prop::bool::weighted(0.3), steps * steps);
            (Just(places).prop_shuffle(), edges)
        })
        .prop_map(|(places, edges)| {
            let steps = places.len();
            let mut graph = vec![Vec::new(); steps];
            for (to, from) in (0..steps).flat_map(|to| (0..to).map(move |from| (to, from))) {
                if edges[to * steps + from] {
                    graph[places[to]].push(places[from]);
                }
            }
            graph
        })
}

/// Whether one step depends on another, directly or not.
fn depends(graph: &Graph, step: usize, on: usize) -> bool {
    graph[step].iter().any(|before| *before == on || depends(graph, *before, on))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn each_step_stands_in_the_order_behind_what_it_depends_on(graph in any_graph()) {
        let definition = Definition::of(&request(&graph, 1), POLICIES).expect("a saga");
        let order = definition.order();
        let place = |step: usize| order.iter().position(|at| *at == step);
        prop_assert_eq!(order.len(), graph.len());
        for (step, after) in graph.iter().enumerate() {
            prop_assert!(after.iter().all(|before| place(*before) < place(step)));
        }
    }

    #[test]
    fn a_circle_is_refused_with_one_of_its_steps_named(
        graph in any_graph(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()
    ) {
        let (from, to) = (from.index(graph.len()), to.index(graph.len()));
        let mut circle = graph.clone();
        circle[to].push(from);
        let closes = from == to || depends(&graph, from, to);
        match Definition::of(&request(&circle, 1), POLICIES) {
            Ok(_) => prop_assert!(!closes),
            Err(error) => {
                prop_assert!(closes);
                let in_circle = |at: usize| {
                    at == from || at == to || depends(&graph, from, at) && depends(&graph, at, to)
                };
                let named = |at: &usize| error.to_string().contains(&format!("\"step-{at}\""));
                let named: Vec<usize> = (0..graph.len()).filter(named).collect();
                prop_assert!(named.len() == 1 && in_circle(named[0]), "{error}");
            }
        }
    }

    #[test]
    fn a_pivot_is_taken_exactly_if_no_step_can_run_beside_it(
        graph in any_graph(), pivot in any::<prop::sample::Index>()
    ) {
        let pivot = pivot.index(graph.len());
        let mut wish = request(&graph, 1);
        wish.steps[pivot].pivot = true;
        let beside = (0..graph.len()).any(|at| {
            at != pivot && !depends(&graph, at, pivot) && !depends(&graph, pivot, at)
        });
        prop_assert_eq!(Definition::of(&wish, POLICIES).is_err(), beside);
    }

    #[test]
    fn a_long_walk_with_many_faults_keeps_the_laws_and_ends(
        graph in any_graph(),
        once in prop::collection::vec(prop::bool::weighted(0.2), 12),
        pivot in any::<prop::sample::Index>(),
        has_probe in any::<bool>(),
        brief in any::<bool>(),
        wide in any::<bool>(),
        faults in 0..30_u8,
        choices in prop::collection::vec(any::<prop::sample::Index>(), 80),
    ) {
        let mut wish = request(&graph, 2);
        wish.steps.iter_mut().zip(once).for_each(|(step, once)| step.idempotent = !once);
        // So brief that the second retry of a compensation comes too late.
        wish.timeout = brief.then_some(Duration::from_millis(150));
        wish.steps[pivot.index(graph.len())].pivot = true;
        if Definition::of(&wish, POLICIES).is_err() {
            wish.steps[pivot.index(graph.len())].pivot = false;
        }
        let definition = Definition::of(&wish, POLICIES).expect("a saga");
        let scope = Scope { faults, wide, ..Scope::WIDE };
        let saga = Saga::with(definition, has_probe, scope);
        walk(&saga, &choices).map_err(TestCaseError::fail)?;
    }
}

/// Goes where it is told, then on without faults to an end, helped where it waits for a person.
fn walk(saga: &Saga, choices: &[prop::sample::Index]) -> Result<(), String> {
    let mut run = Run::new(saga);
    run.settle(saga)?;
    let shown =
        |broken: String, run: &Run| format!("{broken}\nafter {:#?}\nin {saga:?}", run.entered);
    for choice in choices {
        let mut found = moves(&run, saga).map_err(|broken| shown(broken, &run))?;
        if found.is_empty() {
            return Ok(());
        }
        // Giving up, and turning around at once, would end most walks early.
        let calm = choice.index(4) > 0 && found.iter().any(|(_, way)| *way == Way::Onward);
        found.retain(|(run, way)| {
            run.status(saga) != SagaStatus::Abandoned && (!calm || *way == Way::Onward)
        });
        run = found.swap_remove(choice.index(found.len())).0;
    }
    run.faults = 0;
    for choice in choices.iter().cycle().take(1_000) {
        let mut found = moves(&run, saga).map_err(|broken| shown(broken, &run))?;
        if found.is_empty() {
            return Ok(());
        }
        found.retain(|(_, way)| *way != Way::Aside);
        if found.is_empty() {
            return Err(shown("nothing leads on".into(), &run));
        }
        run = found.swap_remove(choice.index(found.len())).0;
    }
    Err(shown("it does not end".into(), &run))
}
