//! Tokens and sessions as their users meet them: over several instances, with a clock that is
//! stepped and a store that fails.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
    pub mod trail;
}

use std::time::Duration;

use lockbay::access::{Expiry, Issued, LastAdmin, NewToken, Role, Standing, TokenStatus};
use lockbay::config::Config;
use lockbay::store::faulty::Faults;
use lockbay::{Caller, ErrorKind, LockBay};
use proptest::prelude::*;
use support::stepped::World;

const SECOND: Duration = Duration::from_secs(1);

fn wish(name: &str, role: Role) -> NewToken {
    NewToken { name: name.into(), role, expiry: None }
}

async fn token(bay: &LockBay, name: &str, role: Role) -> Issued {
    bay.access().create(&wish(name, role)).await.unwrap()
}

async fn counts(bay: &LockBay, text: &str) -> bool {
    bay.access().check(text).await.unwrap().is_some()
}

#[tokio::test]
async fn a_token_is_known_everywhere_by_its_name_and_role_and_nothing_of_it_is_stored() {
    let world = World::new(1);
    let (one, two) = (world.instance(), world.instance());
    let caller = Caller::new(Some("ann".into()), None).unwrap();
    let issued = caller.scope(token(&one.bay, "ops", Role::Admin)).await;
    assert!(issued.token.starts_with(&format!("lbk_{}_", issued.info.token_id)));
    assert_eq!(issued.info.created_by.as_deref(), Some("ann"));
    for bay in [&one.bay, &two.bay] {
        let known = bay.access().check(&issued.token).await.unwrap().unwrap();
        assert_eq!((known.name.as_str(), known.role), ("ops", Role::Admin));
        assert_eq!(known.token_id, issued.info.token_id);
    }
    let secret = issued.token.rsplit('_').next().unwrap();
    for entry in support::trail::entries(&*one.store, 0).await {
        assert!(!format!("{entry:?}").contains(secret));
    }
    assert!(!format!("{issued:?}").contains(secret));
}

#[tokio::test]
async fn a_store_is_open_until_the_first_admin_token_and_never_again() {
    let world = World::new(2);
    let (one, two) = (world.instance(), world.instance());
    for bay in [&one.bay, &two.bay] {
        assert_eq!(bay.access().standing().await.unwrap(), Standing::Open);
    }
    for role in [Role::Viewer, Role::Operator] {
        let refused = one.bay.access().create(&wish("first", role)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert!(refused.to_string().contains("admin"), "{refused}");
    }
    let expiry = Some(Expiry::In(SECOND * 5));
    let first = NewToken { expiry, ..wish("first", Role::Admin) };
    let first = one.bay.access().create(&first).await.unwrap();
    assert_eq!(one.bay.access().standing().await.unwrap(), Standing::Closed);
    world.pass(SECOND).await;
    assert_eq!(two.bay.access().standing().await.unwrap(), Standing::Closed);
    // It expires, and is forgotten; a newcomer finds the store closed all the same.
    world.pass_by(SECOND, SECOND * 10).await;
    assert!(!counts(&one.bay, &first.token).await);
    let newcomer = world.instance();
    assert_eq!(newcomer.bay.access().standing().await.unwrap(), Standing::Closed);
    // Whoever reaches the store can still make one.
    let again = token(&newcomer.bay, "again", Role::Admin).await;
    assert!(counts(&one.bay, &again.token).await);
}

#[tokio::test]
async fn a_server_that_requires_tokens_is_closed_without_any() {
    let world = World::new(3);
    let config = Config { auth: "required".into(), ..Config::default() };
    let bay = world.instance_with(config).bay;
    assert_eq!(bay.access().standing().await.unwrap(), Standing::Closed);
}

#[tokio::test]
async fn a_revoked_token_is_refused_everywhere_within_a_second_with_its_sessions() {
    let world = World::new(4);
    let (one, two) = (world.instance(), world.instance());
    let kept = token(&one.bay, "kept", Role::Admin).await;
    let issued = token(&one.bay, "ops", Role::Operator).await;
    let begun = two.bay.access().begin_session(&issued.token).await.unwrap().unwrap();
    let session = |bay: LockBay, cookie: String| async move {
        bay.access().check_session(&cookie).await.unwrap().is_some()
    };
    for bay in [&one.bay, &two.bay] {
        assert!(counts(bay, &issued.token).await);
        assert!(session(bay.clone(), begun.cookie.clone()).await);
    }
    world.pass(SECOND / 4).await;
    let id = &issued.info.token_id;
    let access = one.bay.access();
    let revoked = access.revoke(id, "left the firm", LastAdmin::Stays).await.unwrap();
    assert_eq!(revoked.status, TokenStatus::Revoked);
    assert_eq!(revoked.reason.as_deref(), Some("left the firm"));
    assert!(!counts(&one.bay, &issued.token).await, "at once where it was revoked");
    assert!(!session(one.bay.clone(), begun.cookie.clone()).await);
    // In use all the time, so that what is at hand is renewed ahead of need too.
    for _ in 0..10 {
        world.pass(SECOND / 10).await;
        let _ = two.bay.access().check(&issued.token).await;
    }
    assert!(!counts(&two.bay, &issued.token).await);
    assert!(!session(two.bay.clone(), begun.cookie.clone()).await);
    assert!(two.bay.access().begin_session(&issued.token).await.unwrap().is_none());
    assert!(counts(&two.bay, &kept.token).await);
    let again = access.revoke(id, "another reason", LastAdmin::Stays).await.unwrap();
    assert_eq!(again, revoked, "revoked once");
}

#[tokio::test]
async fn a_token_ends_by_the_clock_of_the_store() {
    let world = World::new(5);
    let bay = world.instance().bay;
    token(&bay, "kept", Role::Admin).await;
    let end = bay.clock().now() + SECOND * 60;
    for expiry in [Expiry::In(SECOND * 60), Expiry::At(end)] {
        let wish = NewToken { expiry: Some(expiry), ..wish("brief", Role::Viewer) };
        let issued = bay.access().create(&wish).await.unwrap();
        assert_eq!(issued.info.expires_at, Some(bay.clock().now() + SECOND * 60));
        assert!(counts(&bay, &issued.token).await);
    }
    let wish = NewToken { expiry: Some(Expiry::In(SECOND)), ..wish("brief", Role::Viewer) };
    let issued = bay.access().create(&wish).await.unwrap();
    world.pass(SECOND - Duration::from_millis(5)).await;
    assert!(counts(&bay, &issued.token).await);
    world.pass(Duration::from_millis(5)).await;
    assert!(!counts(&bay, &issued.token).await);
    let (tokens, _) = bay.access().list(None, 10).await.unwrap();
    let brief = tokens.iter().find(|token| token.token_id == issued.info.token_id).unwrap();
    assert_eq!(brief.status, TokenStatus::Expired);
    for expiry in [
        Expiry::In(Duration::ZERO),
        Expiry::In(SECOND * 86_400 * 366 * 11),
        Expiry::At(bay.clock().now()),
    ] {
        let wish = NewToken { expiry: Some(expiry), ..self::wish("never", Role::Viewer) };
        assert_eq!(bay.access().create(&wish).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn the_last_admin_token_that_counts_stays_unless_it_may_go() {
    let world = World::new(6);
    let (one, two) = (world.instance().bay, world.instance().bay);
    let a = token(&one, "a", Role::Admin).await.info.token_id;
    let b = token(&one, "b", Role::Admin).await.info.token_id;
    token(&one, "viewer", Role::Viewer).await;
    // Two revoke at once: one of them is the last.
    let (first, second) = tokio::join!(
        one.access().revoke(&a, "r", LastAdmin::Stays),
        two.access().revoke(&b, "r", LastAdmin::Stays)
    );
    assert_eq!(usize::from(first.is_ok()) + usize::from(second.is_ok()), 1);
    let (last, refused) = match (first, second) {
        (Err(error), _) => (a, error),
        (_, Err(error)) => (b, error),
        _ => unreachable!(),
    };
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("--store"), "{refused}");
    // One that has expired is no other.
    let expiry = Some(Expiry::In(SECOND));
    one.access().create(&NewToken { expiry, ..wish("brief", Role::Admin) }).await.unwrap();
    world.pass(SECOND).await;
    one.access().revoke(&last, "r", LastAdmin::Stays).await.unwrap_err();
    one.access().revoke(&last, "r", LastAdmin::MayGo).await.unwrap();
    assert_eq!(one.access().standing().await.unwrap(), Standing::Closed);
    let missing = one.access().revoke("0123456789abcdef", "r", LastAdmin::MayGo).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let no_id = one.access().revoke("../head", "r", LastAdmin::MayGo).await;
    assert_eq!(no_id.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_check_costs_no_read_when_it_is_warm_and_nothing_is_open_when_the_store_is_gone() {
    let world = World::new(7);
    let (admin, open) = (world.instance(), world.instance());
    assert_eq!(open.bay.access().standing().await.unwrap(), Standing::Open);
    let issued = token(&admin.bay, "ops", Role::Admin).await;
    assert!(counts(&admin.bay, &issued.token).await);
    let begun = admin.bay.access().begin_session(&issued.token).await.unwrap().unwrap();
    assert!(admin.bay.access().last_known_session(&begun.cookie).is_none());
    admin.bay.access().check_session(&begun.cookie).await.unwrap().unwrap();
    world.settle().await; // its use is noted
    let before = admin.store.calls();
    for _ in 0..1_000 {
        assert!(counts(&admin.bay, &issued.token).await);
        assert_eq!(admin.bay.access().standing().await.unwrap(), Standing::Closed);
    }
    assert_eq!(admin.store.calls(), before);
    for instance in [&admin, &open] {
        instance.store.die();
    }
    assert!(counts(&admin.bay, &issued.token).await, "fresh");
    world.pass(SECOND * 2).await;
    admin.bay.access().check(&issued.token).await.unwrap_err();
    open.bay.access().standing().await.unwrap_err();
    open.bay.access().check(&issued.token).await.unwrap_err();
    // What was seen last is told to whoever asks for that, for a while.
    assert!(admin.bay.access().last_known(&issued.token).is_some());
    assert!(admin.bay.access().last_known_session(&begun.cookie).is_some());
    assert_eq!(open.bay.access().last_standing(), Some(Standing::Open));
    assert!(open.bay.access().last_known(&issued.token).is_none());
    world.pass_by(SECOND * 60, SECOND * 3_600).await;
    assert!(admin.bay.access().last_known(&issued.token).is_none());
    assert_eq!(open.bay.access().last_standing(), None);
    admin.store.revive();
    assert!(counts(&admin.bay, &issued.token).await);
    admin.store.set(Faults::default());
}

#[tokio::test]
async fn that_a_token_is_used_is_noted_once_a_minute() {
    let world = World::new(8);
    let instance = world.instance();
    let bay = &instance.bay;
    let issued = token(bay, "ops", Role::Admin).await;
    let used = async || bay.access().list(None, 10).await.unwrap().0[0].last_used_at;
    assert_eq!(used().await, None);
    let first = bay.clock().now();
    for _ in 0..300 {
        assert!(counts(bay, &issued.token).await);
        world.pass_by(SECOND / 5, SECOND / 5).await;
    }
    assert_eq!(used().await, Some(first), "one note in a minute");
    assert!(counts(bay, &issued.token).await);
    world.pass(SECOND).await;
    assert!(counts(bay, &issued.token).await);
    world.settle().await;
    assert!(used().await.unwrap() >= first + SECOND * 60);
}

#[tokio::test]
async fn a_session_ends_when_it_is_idle_when_it_is_old_and_when_somebody_ends_it() {
    let world = World::new(9);
    let (one, two) = (world.instance().bay, world.instance().bay);
    let issued = token(&one, "ops", Role::Admin).await;
    let begin = async || one.access().begin_session(&issued.token).await.unwrap().unwrap();
    let counts = async |cookie: &str| two.access().check_session(cookie).await.unwrap().is_some();
    let (idle, used, ended) = (begin().await, begin().await, begin().await);
    assert_ne!(used.cookie, used.session.csrf_token);
    assert!(used.session.proves(&used.session.csrf_token) && !used.session.proves(&used.cookie));
    let elsewhere = two.access().check_session(&used.cookie).await.unwrap().unwrap();
    assert!(elsewhere.proves(&used.session.csrf_token));
    assert!(!elsewhere.proves(&idle.session.csrf_token));
    assert!(counts(&ended.cookie).await);
    one.access().end_session(&ended.cookie).await.unwrap();
    one.access().end_session(&ended.cookie).await.unwrap();
    assert!(one.access().check_session(&ended.cookie).await.unwrap().is_none());
    world.pass_by(SECOND / 2, SECOND).await;
    assert!(!counts(&ended.cookie).await);
    // One is used every ten minutes, and one is not.
    let mut minutes = 0;
    while counts(&used.cookie).await {
        world.pass_by(SECOND * 60, SECOND * 600).await;
        minutes += 10;
        assert!(minutes <= 24 * 60, "it never ends");
        if minutes == 70 {
            assert!(!counts(&idle.cookie).await);
        }
    }
    assert!((11 * 60..=12 * 60 + 10).contains(&minutes), "{minutes}");
    for cookie in ["", "0", &"g".repeat(64), &"0".repeat(64), &issued.token] {
        assert!(!counts(cookie).await, "{cookie}");
    }
}

#[tokio::test]
async fn tokens_are_listed_in_pages_in_the_order_of_making() {
    let world = World::new(10);
    let bay = world.instance().bay;
    let mut made = Vec::new();
    for n in 0..7 {
        made.push(token(&bay, &format!("t{n}"), Role::Admin).await.info.token_id);
        world.pass_by(SECOND, SECOND).await;
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = bay.access().list(after, 3).await.unwrap();
        assert!(page.len() <= 3);
        listed.extend(page.into_iter().map(|token| token.token_id));
        let Some(next) = next else { break };
        after = Some(next);
    }
    assert_eq!(listed, made);
}

#[tokio::test]
async fn making_and_revoking_are_entered_with_who_did_it() {
    let world = World::new(11);
    let instance = world.instance();
    let caller = Caller::new(Some("ann".into()), Some("r1".into())).unwrap();
    let id = caller
        .scope(async {
            let issued = token(&instance.bay, "ops", Role::Admin).await;
            let id = issued.info.token_id.clone();
            let access = instance.bay.access();
            let begun = access.begin_session(&issued.token).await.unwrap().unwrap();
            access.end_session(&begun.cookie).await.unwrap();
            access.revoke(&id, "over", LastAdmin::MayGo).await.unwrap();
            id
        })
        .await;
    let entries = support::trail::entries(&*instance.store, 0).await;
    let told = format!("{entries:?}");
    for action in ["created", "revoked"] {
        let entity = format!("token/{id}");
        let entry = entries.iter().find(|entry| entry.is(&entity, action));
        assert!(entry.is_some(), "{action}: {told}");
    }
    for action in ["begun", "ended"] {
        assert!(told.contains(action), "{action}: {told}");
    }
    assert!(told.contains("ann") && told.contains("over"), "{told}");
}

#[tokio::test]
async fn what_ended_long_ago_is_forgotten_and_the_store_stays_closed() {
    let world = World::new(12);
    let instance = world.instance();
    let bay = &instance.bay;
    bay.start();
    let expiry = Some(Expiry::In(SECOND * 60));
    let brief = NewToken { expiry, ..wish("brief", Role::Admin) };
    let brief = bay.access().create(&brief).await.unwrap();
    let begun = bay.access().begin_session(&brief.token).await.unwrap().unwrap();
    assert!(counts(bay, &brief.token).await);
    let listed = async || bay.access().list(None, 10).await.unwrap().0.len();
    world.pass_by(SECOND * 10, SECOND * 3_600).await;
    assert_eq!(listed().await, 1, "it stays for a while");
    for _ in 0..200 {
        world.pass_by(SECOND * 3_600 * 12, SECOND * 3_600 * 12).await;
        world.pass_by(SECOND, SECOND * 10).await;
        if listed().await == 0 {
            break;
        }
    }
    assert_eq!(listed().await, 0, "and then goes");
    assert!(bay.access().check_session(&begun.cookie).await.unwrap().is_none());
    let newcomer = world.instance();
    assert_eq!(newcomer.bay.access().standing().await.unwrap(), Standing::Closed);
    assert!(!counts(&newcomer.bay, &brief.token).await);
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() {
    let world = World::new(13);
    let bay = world.instance().bay;
    for name in ["", " ", "a ", " a", "a\nb", &"x".repeat(129)] {
        let refused = bay.access().create(&wish(name, Role::Admin)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name:?}");
    }
    token(&bay, &"é".repeat(64), Role::Admin).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_text_but_the_token_authenticates(text in ".{0,120}", digits in "[0-9a-f]{64}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bay = World::new(14).instance().bay;
            let issued = token(&bay, "ops", Role::Admin).await;
            let id = &issued.info.token_id;
            let tries = [
                text.clone(),
                format!("lbk_{text}"),
                format!("lbk_{id}_{text}"),
                format!("lbk_{id}_{digits}"),
                format!("{}{text}", issued.token),
                format!("{text}{}", issued.token),
            ];
            for attempt in tries.iter().filter(|attempt| **attempt != issued.token) {
                assert!(!counts(&bay, attempt).await, "{attempt:?}");
                assert!(bay.access().begin_session(attempt).await.unwrap().is_none());
                assert!(bay.access().check_session(attempt).await.unwrap().is_none());
            }
            assert!(counts(&bay, &issued.token).await);
        });
    }
}

#[tokio::test]
async fn of_those_who_have_shown_nothing_one_makes_the_first_token_and_nobody_a_second() {
    let world = World::new(31);
    let (one, two) = (world.instance(), world.instance());
    let (a, b) = (wish("a", Role::Admin), wish("b", Role::Admin));
    // Both were let in while the store was open.
    assert_eq!(two.bay.access().standing().await.unwrap(), Standing::Open);
    let viewer = one.bay.access().create_first(&wish("v", Role::Viewer)).await.unwrap_err();
    assert_eq!(viewer.kind(), ErrorKind::Refused);
    let made = tokio::join!(one.bay.access().create_first(&a), two.bay.access().create_first(&b));
    let refused = match made {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        both => panic!("one of them: {both:?}"),
    };
    assert_eq!(refused.kind(), ErrorKind::Unauthorized);
    for role in [Role::Admin, Role::Viewer] {
        let late = two.bay.access().create_first(&wish("late", role)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Unauthorized);
    }
    assert_eq!(two.bay.access().standing().await.unwrap(), Standing::Closed);
    assert_eq!(one.bay.access().list(None, 10).await.unwrap().0.len(), 1);
}
