//! The proof of the state machine: every small saga, every order of events, every single fault.
//!
//! `run` is an abstract executor beside a world that remembers which effects are really there, and
//! holds the laws at every move. `explore` visits every state that such runs can reach. `sagas`
//! says which sagas are looked at, `walk` takes larger ones at random, and `pains` tells single
//! stories by name. What an executor owes to the machine stands in `run`. Nothing here is built
//! into the library.

mod explore;
mod pains;
mod run;
mod sagas;
mod walk;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use explore::{Counts, explore};
use sagas::{Kind, Saga, Scope, graphs, reversed, shapes};

/// Explores sagas on two threads, and adds up what was seen.
fn explore_all(sagas: &[Saga]) -> Counts {
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Counts::default()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(saga) = sagas.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let counts = explore(saga).unwrap_or_else(|broken| panic!("{broken}"));
                    total.lock().expect("no panic before").add(counts);
                }
            });
        }
    });
    total.into_inner().expect("no thread panicked")
}

/// Every saga of these graphs and kinds that can be defined.
fn all(graphs: &[Vec<Vec<usize>>], kinds: &[Kind], scope: Scope) -> Vec<Saga> {
    let steps = |graph: &Vec<Vec<usize>>| 0..graph.len();
    graphs
        .iter()
        .flat_map(|graph| kinds.iter().map(move |kind| (graph, kind)))
        .flat_map(|(graph, kind)| {
            let places = if *kind == Kind::PLAIN { 0..1 } else { steps(graph) };
            places.filter_map(move |place| Saga::of(graph, *kind, place, scope))
        })
        .collect()
}

#[test]
fn every_saga_of_up_to_two_steps_ends_legally_whatever_two_faults_and_any_order_do() {
    for scope in [Scope { retries: 0, ..Scope::WIDE }, Scope::WIDE] {
        let mut counts = Counts::default();
        (1..=2).for_each(|steps| counts.add(explore_all(&all(&graphs(steps), &Kind::ALL, scope))));
        println!("up to 2 steps, 2 faults, any order, {} retries: {counts}", scope.retries);
    }
}

#[test]
fn every_saga_of_three_steps_ends_legally_whatever_two_faults_do() {
    for scope in [Scope { retries: 0, ..Scope::NARROW }, Scope::NARROW] {
        let scope = Scope { faults: 2, ..scope };
        let counts = explore_all(&all(&graphs(3), &Kind::ALL, scope));
        println!("3 steps, 2 faults, {} retries: {counts}", scope.retries);
    }
}

#[test]
fn every_saga_of_four_steps_ends_legally_whatever_one_fault_does() {
    println!("4 steps, 1 fault: {}", explore_all(&all(&shapes(4), &Kind::ALL, Scope::NARROW)));
}

#[test]
fn every_saga_of_five_steps_ends_legally_whatever_one_fault_does() {
    println!("5 steps, 1 fault: {}", explore_all(&all(&shapes(5), &[Kind::PLAIN], Scope::NARROW)));
}

#[test]
fn the_places_of_steps_make_no_difference() {
    let sample = graphs(4).into_iter().step_by(3);
    for graph in graphs(3).into_iter().chain(sample) {
        let here = Saga::of(&graph, Kind::PLAIN, 0, Scope::NARROW).expect("a saga");
        let there = Saga::of(&reversed(&graph), Kind::PLAIN, 0, Scope::NARROW).expect("a saga");
        assert_eq!(explore(&here), explore(&there), "{graph:?}");
    }
}

#[test]
fn a_saga_that_was_taken_over_too_often_waits_for_a_person_and_still_ends() {
    let scope = Scope { taken_over_often: true, faults: 1, ..Scope::WIDE };
    let counts = explore_all(&all(&graphs(2), &Kind::ALL, scope));
    println!("2 steps, taken over ten times, 1 fault, any order: {counts}");
}

/// The same for every kind of saga of five steps, and in any order for three; it takes minutes.
#[test]
#[ignore = "takes minutes; run it in release"]
fn every_saga_of_five_steps_of_every_kind_ends_legally_whatever_one_fault_does() {
    println!("5 steps, 1 fault, every graph: {}", {
        explore_all(&all(&graphs(5), &[Kind::PLAIN], Scope::NARROW))
    });
    println!("5 steps, 1 fault, every kind: {}", {
        explore_all(&all(&shapes(5), &Kind::ALL, Scope::NARROW))
    });
    let scope = Scope { faults: 1, ..Scope::WIDE };
    println!("3 steps, 1 fault, any order: {}", {
        explore_all(&all(&graphs(3), &Kind::ALL, scope))
    });
}
