//! Approvals on a clock that the test steps: who may answer, until when, and what of it is done
//! once.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::time::Duration;

use lockbay::approval::{ApprovalStatus, Approvals, Wish};
use lockbay::{ErrorKind, Json};
use support::stepped::World;

const DAY: Duration = Duration::from_secs(86_400);

fn wish(by: &str, key: Option<&str>) -> Wish {
    Wish {
        verb: "deposit".into(),
        subject: "user_5".into(),
        amount: "20000.00".into(),
        currency: "USD".into(),
        request: Json::parse(r#"{"amount":"20000.00"}"#).unwrap(),
        asked_by: by.into(),
        reason: None,
        ttl: DAY,
        key: key.map(str::to_owned),
    }
}

async fn asked(approvals: &Approvals) -> String {
    approvals.ask(wish("ana", None)).await.unwrap().approval.approval_id
}

async fn kind_of(approvals: &Approvals, id: &str, actor: &str) -> ErrorKind {
    approvals.allow(id, actor, "seen").await.unwrap_err().kind()
}

#[tokio::test]
async fn somebody_else_approves_and_it_is_done_once() {
    let world = World::new(1);
    let (one, two) = (world.instance(), world.instance());
    let id = asked(one.bay.approvals()).await;
    assert_eq!(kind_of(one.bay.approvals(), &id, "ana").await, ErrorKind::Refused);
    let allowed = two.bay.approvals().allow(&id, "ben", "I called the bank").await.unwrap();
    let other = kind_of(one.bay.approvals(), &id, "cid").await;
    assert_eq!(other, ErrorKind::Held, "while ben's is carried out");
    let done = two.bay.approvals().finish(allowed, Ok("movement 1".into())).await.unwrap();
    assert_eq!(done.status, ApprovalStatus::Done);
    assert_eq!(kind_of(one.bay.approvals(), &id, "cid").await, ErrorKind::Refused);
    let shown = one.bay.approvals().show(&id).await.unwrap();
    assert_eq!(shown.decided_by.as_deref(), Some("ben"));
    assert_eq!(shown.outcome.as_deref(), Some("movement 1"));
}

#[tokio::test]
async fn what_was_allowed_by_an_instance_that_died_can_be_allowed_again_and_the_dead_is_fenced() {
    let world = World::new(2);
    let bay = world.instance().bay;
    let id = asked(bay.approvals()).await;
    let dead = bay.approvals().allow(&id, "ben", "yes").await.unwrap();
    assert_eq!(bay.approvals().show(&id).await.unwrap().status, ApprovalStatus::Approved);
    world.pass_by(Duration::from_secs(1), Duration::from_secs(31)).await;
    let allowed = bay.approvals().allow(&id, "cid", "again").await.unwrap();
    let late = bay.approvals().finish(dead, Ok("late".into())).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced);
    bay.approvals().finish(allowed, Err("the saga has ended".into())).await.unwrap();
    assert_eq!(bay.approvals().show(&id).await.unwrap().status, ApprovalStatus::Failed);
}

#[tokio::test]
async fn what_was_refused_or_came_too_late_stays_so() {
    let world = World::new(3);
    let bay = world.instance().bay;
    let (refused, late) = (asked(bay.approvals()).await, asked(bay.approvals()).await);
    bay.approvals().reject(&refused, "ana", "a slip").await.unwrap();
    assert_eq!(kind_of(bay.approvals(), &refused, "ben").await, ErrorKind::Refused);
    world.pass_by(DAY, DAY).await;
    assert_eq!(bay.approvals().show(&late).await.unwrap().status, ApprovalStatus::Expired);
    assert_eq!(kind_of(bay.approvals(), &late, "ben").await, ErrorKind::Refused);
    let again = bay.approvals().reject(&late, "ben", "no").await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn what_was_allowed_and_never_carried_out_can_be_ended_and_ends_by_itself() {
    let world = World::new(8);
    let bay = world.instance().bay;
    let (ended, left) = (asked(bay.approvals()).await, asked(bay.approvals()).await);
    for id in [&ended, &left] {
        drop(bay.approvals().allow(id, "ben", "yes").await.unwrap());
    }
    let busy = bay.approvals().reject(&ended, "ana", "stop").await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Held, "while it is carried out");
    world.pass_by(Duration::from_secs(1), Duration::from_secs(31)).await;
    let rejected = bay.approvals().reject(&ended, "ana", "stop").await.unwrap();
    assert_eq!(rejected.status, ApprovalStatus::Rejected);
    world.pass_by(DAY, DAY).await;
    assert_eq!(bay.approvals().show(&left).await.unwrap().status, ApprovalStatus::Expired);
    assert_eq!(kind_of(bay.approvals(), &left, "cid").await, ErrorKind::Refused);
}

#[tokio::test]
async fn a_key_asks_once_and_belongs_to_who_asked_and_to_what() {
    let world = World::new(4);
    let (one, two) = (world.instance(), world.instance());
    let first = one.bay.approvals().ask(wish("ana", Some("k1"))).await.unwrap();
    let second = two.bay.approvals().ask(wish("ana", Some("k1"))).await.unwrap();
    assert!(!first.replayed && second.replayed);
    assert_eq!(first.approval.approval_id, second.approval.approval_id);
    let other = two.bay.approvals().ask(wish("ben", Some("k1"))).await.unwrap();
    assert_ne!(first.approval.approval_id, other.approval.approval_id);
    let more = Wish {
        request: Json::parse(r#"{"amount":"90000.00"}"#).unwrap(),
        ..wish("ana", Some("k1"))
    };
    assert_eq!(one.bay.approvals().ask(more).await.unwrap_err().kind(), ErrorKind::KeyReused);
}

#[tokio::test]
async fn a_list_has_the_newest_first_and_goes_on() {
    let world = World::new(5);
    let bay = world.instance().bay;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, asked(bay.approvals()).await);
        world.pass(Duration::from_millis(10)).await;
    }
    bay.approvals().reject(&ids[1], "ben", "no").await.unwrap();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = bay.approvals().list(Some(ApprovalStatus::Waiting), after, 2).await.unwrap();
        found.extend(page.items.into_iter().map(|approval| approval.approval_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    ids.remove(1);
    assert_eq!(found, ids);
}

#[tokio::test]
async fn one_of_many_who_answer_at_once_is_heard() {
    let world = World::new(6);
    let bay = world.instance().bay;
    let id = asked(bay.approvals()).await;
    let names: Vec<String> = (0..20).map(|n| format!("person-{n}")).collect();
    let answers = names.iter().map(|name| bay.approvals().allow(&id, name, "yes"));
    let answers = futures_util::future::join_all(answers).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
}

#[tokio::test]
async fn what_is_outside_the_limits_is_refused_and_nothing_is_written() {
    let world = World::new(7);
    let bay = world.instance().bay;
    let long = format!("\"{}\"", "x".repeat(64 * 1024));
    for broken in [
        Wish { subject: String::new(), ..wish("ana", None) },
        Wish { asked_by: "a\nb".into(), ..wish("ana", None) },
        Wish { request: Json::parse(long).unwrap(), ..wish("ana", None) },
    ] {
        assert_eq!(bay.approvals().ask(broken).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert!(bay.approvals().list(None, None, 10).await.unwrap().items.is_empty());
    assert_eq!(bay.approvals().show("apr_x").await.unwrap_err().kind(), ErrorKind::NotFound);
}
