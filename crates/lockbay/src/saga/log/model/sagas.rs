//! Which sagas are looked at: every graph of a few steps, and what is special about one of them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::json::Json;
use crate::saga::definition::{Definition, Policies, SagaRequest, StepSpec};

/// For each step, those it depends on.
pub(super) type Graph = Vec<Vec<usize>>;

/// What is special about one step of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) once: bool,
    pub(super) pivot: bool,
    pub(super) probe: bool,
}

impl Kind {
    pub(super) const PLAIN: Kind = Kind { once: false, pivot: false, probe: false };
    pub(super) const ALL: [Kind; 6] = [
        Kind::PLAIN,
        Kind { once: true, probe: true, ..Kind::PLAIN },
        Kind { once: true, ..Kind::PLAIN },
        Kind { pivot: true, ..Kind::PLAIN },
        Kind { pivot: true, once: true, probe: true },
        Kind { pivot: true, once: true, probe: false },
    ];
}

/// How much may happen to a saga.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    pub(super) faults: u8,
    pub(super) retries: u32,
    /// Whether everything is tried that multiplies the states: starts one by one, entries judged
    /// on the state before last, a zombie's, and persons who come unasked.
    pub(super) wide: bool,
    pub(super) taken_over_often: bool,
}

impl Scope {
    pub(super) const WIDE: Scope =
        Scope { faults: 2, retries: 1, wide: true, taken_over_often: false };
    pub(super) const NARROW: Scope = Scope { faults: 1, wide: false, ..Scope::WIDE };
}

/// A saga to look at.
pub(super) struct Saga {
    pub(super) definition: Definition,
    pub(super) has_probe: bool,
    pub(super) scope: Scope,
    /// For each step, all that depend on it.
    pub(super) followers: Vec<Vec<usize>>,
}

/// In short.
impl std::fmt::Debug for Saga {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for step in &self.definition.steps {
            let (once, pivot) = (step.once, step.pivot);
            write!(f, "[after {:?}, once {once}, pivot {pivot}] ", step.after)?;
        }
        write!(f, "probe {}, {:?}", self.has_probe, self.scope)
    }
}

impl Saga {
    /// A saga in which one step is of this kind, if it may be defined.
    pub(super) fn of(graph: &Graph, kind: Kind, place: usize, scope: Scope) -> Option<Self> {
        let mut request = request(graph, scope.retries);
        request.steps[place].idempotent = !kind.once;
        request.steps[place].pivot = kind.pivot;
        let definition = Definition::of(&request, POLICIES).ok()?;
        Some(Saga::with(definition, kind.probe, scope))
    }

    pub(super) fn with(definition: Definition, has_probe: bool, scope: Scope) -> Self {
        let steps = definition.steps.len();
        let mut followers = vec![BTreeSet::new(); steps];
        for _ in 0..steps {
            for (at, step) in definition.steps.iter().enumerate() {
                for before in &step.after {
                    let mut more = followers[at].clone();
                    more.insert(at);
                    followers[*before].extend(more);
                }
            }
        }
        let followers = followers.into_iter().map(|set| set.into_iter().collect()).collect();
        Saga { definition, has_probe, scope, followers }
    }
}

pub(super) const POLICIES: Policies = Policies {
    timeout: Duration::from_secs(3_600),
    step_timeout: Duration::from_secs(10),
    max_retries: 1,
};

/// A request of plain steps.
pub(super) fn request(graph: &Graph, retries: u32) -> SagaRequest {
    let name = |at: &usize| format!("step-{at}");
    let steps = graph.iter().enumerate().map(|(at, after)| StepSpec {
        max_retries: Some(retries),
        compensation_max_retries: Some(retries),
        depends_on: Some(after.iter().map(name).collect()),
        ..StepSpec::new(name(&at), "handler", Json::null())
    });
    SagaRequest::new("saga", steps.collect())
}

/// Every graph of so many steps in which each depends only on earlier ones.
pub(super) fn graphs(steps: usize) -> Vec<Graph> {
    let edges: Vec<(usize, usize)> =
        (0..steps).flat_map(|to| (0..to).map(move |from| (from, to))).collect();
    (0..1_u32 << edges.len())
        .map(|chosen| {
            let mut graph = vec![Vec::new(); steps];
            for (bit, (from, to)) in edges.iter().enumerate() {
                if chosen & 1 << bit != 0 {
                    graph[*to].push(*from);
                }
            }
            graph
        })
        .collect()
}

/// One graph of each shape: of those that differ only in the places of their steps, the first.
pub(super) fn shapes(steps: usize) -> Vec<Graph> {
    let orders = orders(steps);
    let mut seen = BTreeSet::new();
    let mut kept = graphs(steps);
    kept.retain(|graph| {
        let form = |order: &Vec<usize>| {
            let edges = graph.iter().enumerate();
            let edges = edges.flat_map(|(to, after)| after.iter().map(move |from| (*from, to)));
            edges.fold(0_u64, |form, (from, to)| form | 1 << (order[from] * steps + order[to]))
        };
        seen.insert(orders.iter().map(form).min())
    });
    kept
}

/// Every order of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(count - 1) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            all.push(order);
        }
    }
    all
}

/// The same graph with its steps the other way round, so that each depends on later ones.
pub(super) fn reversed(graph: &Graph) -> Graph {
    let last = graph.len() - 1;
    let turned = |after: &Vec<usize>| after.iter().map(|before| last - before).collect();
    graph.iter().rev().map(turned).collect()
}
