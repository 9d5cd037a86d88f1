//! Money over HTTP: it moves exactly as was asked, once under each key, or not at all.

mod support;

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};
use support::http::{JSON, send};
use support::money::{
    CASHOUT, DEPOSITS, ESCROW, accepted, has, hundred, in_balance, keyed, postings, wait_until_has,
};
use support::{Server, eventually};

fn server() -> Server {
    Server::start(&["--store", "memory:"])
}

#[test]
fn a_deposit_is_made_once_under_its_key_and_shown_with_every_decimal() {
    let server = server();
    let body = r#"{"user_id":12345,"amount":1000.5,"currency":"USD"}"#;
    let first = keyed(&server, DEPOSITS, "transfer-7", body);
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    let made = first.json();
    for (member, value) in [
        ("user_id", "12345"),
        ("amount", "1000.50"),
        ("currency", "USD"),
        ("available", "1000.50"),
        ("held", "0.00"),
    ] {
        assert_eq!(made[member], value, "{made}");
    }
    let same = r#"{"currency":"USD","amount":"1000.50","user_id":"12345"}"#;
    let again = keyed(&server, DEPOSITS, "transfer-7", same);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.ok(), made);
    let other = r#"{"user_id":12345,"amount":1000.51,"currency":"USD"}"#;
    keyed(&server, DEPOSITS, "transfer-7", other).problem(422, "key-reused");
    assert_eq!(has(&server, "12345"), ("1000.50".into(), "0.00".into()));
    let account = server.get("/v1/ledger/accounts/12345?currency=USD").ok();
    let whole = json!({
        "user_id": "12345", "available": "1000.50", "held": "0.00", "currency": "USD"
    });
    assert_eq!(account, whole);
}

#[test]
fn amounts_are_taken_by_their_exact_text() {
    let server = server();
    for (n, currency, amount, shown) in [
        (1, "USD", "999999999999999.99", "999999999999999.99"),
        (2, "BTC", "0.00000001", "0.00000001"),
        (3, "ETH", "1.000000000000000001", "1.000000000000000001"),
        (4, "JPY", "9007199254740", "9007199254740"),
        (5, "KWD", "\"0.001\"", "0.001"),
        (6, "EUR", "1e3", "1000.00"),
        (7, "GBP", "0.10", "0.10"),
    ] {
        let body = format!(r#"{{"user_id":"ann","amount":{amount},"currency":"{currency}"}}"#);
        let reply = keyed(&server, DEPOSITS, &format!("exact-{n}"), &body);
        assert_eq!(reply.status, 201, "{}", reply.text());
        assert_eq!(reply.json()["available"], shown);
    }
    assert_eq!(in_balance(&server)["currencies"].as_array().map(Vec::len), Some(7));
}

#[test]
fn somebody_who_never_had_money_has_zeros() {
    let server = server();
    assert_eq!(has(&server, "nobody"), ("0.00".into(), "0.00".into()));
    let yen = server.get("/v1/ledger/accounts/a%20b?currency=JPY").ok();
    assert_eq!(yen["available"], "0");
    assert_eq!(in_balance(&server)["currencies"], json!([]));
    assert_eq!(postings(&server, "no-such-saga"), [] as [Value; 0]);
}

#[test]
fn an_escrow_is_held_and_then_released_once() {
    let server = server();
    hundred(&server, "ann");
    let body = r#"{"buyer_id":"ann","seller_id":"bob","amount":"30.00","currency":"USD"}"#;
    let first = keyed(&server, ESCROW, "order-1", body);
    let escrow = accepted(&first);
    assert_eq!(first.header("idempotency-replayed"), None);
    eventually("the money is in the escrow", || {
        (postings(&server, &escrow).len() == 2).then_some(())
    });
    assert_eq!(has(&server, "ann"), ("70.00".into(), "0.00".into()));
    assert_eq!(in_balance(&server)["currencies"][0]["escrow"], "30.00");

    // The same request in other words, and another one under the same key.
    let same = r#"{"currency":"USD","amount":30,"seller_id":"bob","buyer_id":"ann"}"#;
    let again = keyed(&server, ESCROW, "order-1", same);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(accepted(&again), escrow);
    let other = r#"{"buyer_id":"ann","seller_id":"bob","amount":"31.00","currency":"USD"}"#;
    keyed(&server, ESCROW, "order-1", other).problem(422, "key-reused");

    let wish = json!({ "escrow_id": escrow }).to_string();
    let release = accepted(&keyed(&server, "/v1/sagas/release", "order-1", &wish));
    wait_until_has(&server, "bob", "30.00", "0.00");
    let again = keyed(&server, "/v1/sagas/release", "order-1", &wish);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(accepted(&again), release);
    keyed(&server, "/v1/sagas/release", "order-1b", &wish).problem(422, "invalid");
    keyed(&server, "/v1/sagas/refund", "order-1", &wish).problem(422, "invalid");
    assert_eq!(has(&server, "bob"), ("30.00".into(), "0.00".into()));
    assert_eq!(in_balance(&server)["currencies"][0]["escrow"], "0.00");
}

#[test]
fn a_refund_gives_the_escrow_back() {
    let server = server();
    hundred(&server, "ann");
    let body = r#"{"buyer_id":"ann","seller_id":7,"amount":0.99,"currency":"USD"}"#;
    let escrow = accepted(&keyed(&server, ESCROW, "k", body));
    wait_until_has(&server, "ann", "99.01", "0.00");
    eventually("the escrow is there", || (postings(&server, &escrow).len() == 2).then_some(()));
    let wish = json!({ "escrow_id": escrow }).to_string();
    eventually("the escrow can be given back", || {
        let reply = keyed(&server, "/v1/sagas/refund", "k", &wish);
        (reply.status == 202).then_some(())
    });
    wait_until_has(&server, "ann", "100.00", "0.00");
    in_balance(&server);
}

#[test]
fn a_cashout_leaves_by_the_provider_and_its_postings_tell_how() {
    let server = server();
    hundred(&server, "ann");
    let body = r#"{"user_id":"ann","amount":"25.00","currency":"USD","destination":"IBAN 1"}"#;
    let id = accepted(&keyed(&server, CASHOUT, "k", body));
    eventually("it is paid", || (postings(&server, &id).len() == 2).then_some(()));
    assert_eq!(has(&server, "ann"), ("75.00".into(), "0.00".into()));
    assert_eq!(in_balance(&server)["currencies"][0]["external"], "-75.00");
    let mut kinds = Vec::new();
    for movement in postings(&server, &id) {
        assert_eq!(movement["reference"]["saga_id"], id.as_str());
        assert!(movement["at"].is_string() && movement["legs"].is_array(), "{movement}");
        kinds.push(movement["kind"].as_str().expect("a kind").to_owned());
    }
    kinds.sort();
    assert_eq!(kinds, ["payout", "reserve"]);
    let replayed = keyed(&server, CASHOUT, "k", body);
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    assert_eq!(accepted(&replayed), id);
    // Page by page, none twice and none missing.
    let first = server.get(&format!("/v1/ledger/postings?saga_id={id}&page_size=1")).ok();
    let token = first["next_page_token"].as_str().expect("there is more");
    let path = format!("/v1/ledger/postings?saga_id={id}&page_size=1&page_token={token}");
    let second = server.get(&path).ok();
    assert_ne!(first["items"][0]["movement_id"], second["items"][0]["movement_id"]);
    let path = format!("/v1/ledger/postings?saga_id=another&page_token={token}");
    server.get(&path).problem(400, "invalid");
}

#[test]
fn too_little_money_is_422_and_nothing_is_written() {
    let server = server();
    hundred(&server, "ann");
    let escrow = r#"{"buyer_id":"ann","seller_id":"bob","amount":"100.01","currency":"USD"}"#;
    let cashout = r#"{"user_id":"ann","amount":"100.01","currency":"USD","destination":"x"}"#;
    for (path, body) in [(ESCROW, escrow), (CASHOUT, cashout)] {
        let problem = keyed(&server, path, "k", body).problem(422, "invalid");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("USD available") && detail.contains("100.01 USD"), "{detail}");
        assert_eq!(problem["retryable"], false);
        // Nothing took the key.
        let less = body.replace("100.01", "10.00");
        accepted(&keyed(&server, path, "k", &less));
    }
    // Of another currency there is nothing at all.
    let euros = escrow.replace("USD", "EUR");
    keyed(&server, ESCROW, "k2", &euros).problem(422, "invalid");
}

#[test]
fn without_an_idempotency_key_no_money_moves() {
    let server = server();
    hundred(&server, "ann");
    for (path, body) in [
        (DEPOSITS, r#"{"user_id":"ann","amount":"1","currency":"USD"}"#),
        (ESCROW, r#"{"buyer_id":"ann","seller_id":"bob","amount":"1","currency":"USD"}"#),
        (CASHOUT, r#"{"user_id":"ann","amount":"1","currency":"USD","destination":"x"}"#),
        ("/v1/sagas/release", r#"{"escrow_id":"e"}"#),
        ("/v1/sagas/refund", r#"{"escrow_id":"e"}"#),
    ] {
        let problem = server.post(path, body).problem(400, "invalid");
        assert!(problem["detail"].as_str().expect("text").contains("Idempotency-Key"), "{problem}");
        keyed(&server, path, "", body).problem(400, "invalid");
        keyed(&server, path, &"k".repeat(256), body).problem(400, "invalid");
    }
    let longest = "k".repeat(255);
    let body = r#"{"buyer_id":"ann","seller_id":"bob","amount":"1","currency":"USD"}"#;
    accepted(&keyed(&server, ESCROW, &longest, body));
    let body = r#"{"user_id":"bob","amount":"1","currency":"USD"}"#;
    assert_eq!(keyed(&server, DEPOSITS, &longest, body).status, 201);
}

#[test]
fn one_key_on_two_routes_names_two_requests() {
    let server = server();
    hundred(&server, "ann");
    let deposit = r#"{"user_id":"ann","amount":"1","currency":"USD"}"#;
    assert_eq!(keyed(&server, DEPOSITS, "same", deposit).status, 201);
    let escrow = r#"{"buyer_id":"ann","seller_id":"bob","amount":"1","currency":"USD"}"#;
    let one = accepted(&keyed(&server, ESCROW, "same", escrow));
    let cashout = r#"{"user_id":"ann","amount":"1","currency":"USD","destination":"x"}"#;
    let two = accepted(&keyed(&server, CASHOUT, "same", cashout));
    assert_ne!(one, two);
    wait_until_has(&server, "ann", "99.00", "0.00");
}

#[test]
fn every_wrong_amount_is_refused_and_writes_nothing() {
    let server = server();
    hundred(&server, "ann");
    let long = format!("\"{}\"", "1".repeat(1_000));
    let wrong = [
        "0.001",
        "1e-3",
        "0",
        "0.00",
        "-0",
        "-1",
        "\"-1\"",
        "\"\"",
        "\" 1\"",
        "\"NaN\"",
        "\"Infinity\"",
        "\"1,000\"",
        "\"1_000\"",
        "\"0x10\"",
        "\"\u{661}\"",
        "NaN",
        "Infinity",
        "+1",
        "01",
        ".5",
        "1000000000000000.01",
        "1e15000",
        "1e400",
        "1e-400",
        "-1e400",
        "1e999999999999",
        "99999999999999999999999999999999999999999999999999",
        "340282366920938463463374607431768211456",
        "null",
        "true",
        "[]",
        "[1]",
        "{}",
        "{\"value\":1}",
        long.as_str(),
    ];
    for amount in wrong {
        for (path, rest) in [
            (DEPOSITS, r#""user_id":"ann","currency":"USD""#),
            (ESCROW, r#""buyer_id":"ann","seller_id":"bob","currency":"USD""#),
            (CASHOUT, r#""user_id":"ann","destination":"x","currency":"USD""#),
        ] {
            let body = format!("{{{rest},\"amount\":{amount}}}");
            let reply = keyed(&server, path, "k", &body);
            assert_eq!(reply.status, 400, "{path} {amount}: {}", reply.text());
            reply.problem(400, "invalid");
        }
    }
    assert_eq!(has(&server, "ann"), ("100.00".into(), "0.00".into()));
    assert_eq!(in_balance(&server)["currencies"].as_array().map(Vec::len), Some(1));
    let metrics = server.get("/api/advanced-state/metrics").ok();
    assert_eq!(metrics["saga_metrics"]["sagas_started"], 0);
}

#[test]
fn every_other_wrong_member_is_refused_and_writes_nothing() {
    let server = server();
    hundred(&server, "ann");
    let deposit = json!({ "user_id": "ann", "amount": "1", "currency": "USD" });
    let escrow = json!({ "buyer_id": "ann", "seller_id": "bob", "amount": "1", "currency": "USD" });
    let cashout = json!({ "user_id": "ann", "amount": "1", "currency": "USD", "destination": "x" });
    let long = "x".repeat(129);
    let ids = [
        json!(1.5),
        json!(""),
        json!(null),
        json!(true),
        json!(["a"]),
        json!("a/b"),
        json!("a\u{0}b"),
        json!(long),
    ];
    let currencies = [
        json!("usd"),
        json!("Usd"),
        json!("XXY"),
        json!("XAU"),
        json!(""),
        json!("US"),
        json!("DOLLARS PLEASE"),
        json!("USD "),
        json!(840),
        json!(null),
        json!("\u{20ac}"),
    ];
    let mut wrong = Vec::new();
    for (path, whole) in [(DEPOSITS, &deposit), (ESCROW, &escrow), (CASHOUT, &cashout)] {
        let mut with = |member: &str, value: &Value| {
            let mut body = whole.clone();
            body[member] = value.clone();
            wrong.push((path, body.to_string()));
        };
        for currency in &currencies {
            with("currency", currency);
        }
        for member in ["user_id", "buyer_id", "seller_id"] {
            if whole.get(member).is_some() {
                ids.iter().for_each(|id| with(member, id));
            }
        }
        with("surprise", &json!(1));
        for member in whole.as_object().expect("an object").keys() {
            let mut body = whole.clone();
            body.as_object_mut().expect("an object").remove(member);
            wrong.push((path, body.to_string()));
        }
    }
    for destination in [json!(""), json!(5), json!(null), json!("a\nb"), json!("x".repeat(513))] {
        let mut body = cashout.clone();
        body["destination"] = destination;
        wrong.push((CASHOUT, body.to_string()));
    }
    let mut selfish = escrow.clone();
    selfish["seller_id"] = json!("ann");
    wrong.push((ESCROW, selfish.to_string()));
    wrong.push((ESCROW, r#"{"buyer_id":5,"seller_id":"5","amount":1,"currency":"USD"}"#.into()));
    for path in ["/v1/sagas/release", "/v1/sagas/refund"] {
        for body in
            ["{}", r#"{"escrow_id":5}"#, r#"{"escrow_id":""}"#, r#"{"escrow_id":"e","x":1}"#]
        {
            wrong.push((path, body.into()));
        }
    }
    for (path, body) in &wrong {
        let reply = keyed(&server, path, "k", body);
        assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
        let problem = reply.problem(400, "invalid");
        assert!(!problem["detail"].as_str().expect("text").is_empty());
    }
    let metrics = server.get("/api/advanced-state/metrics").ok();
    assert_eq!(metrics["saga_metrics"]["sagas_started"], 0);
    assert_eq!(has(&server, "ann"), ("100.00".into(), "0.00".into()));
}

#[test]
fn an_escrow_that_is_not_there_cannot_be_ended() {
    let server = server();
    hundred(&server, "ann");
    let cashout = r#"{"user_id":"ann","amount":"1","currency":"USD","destination":"x"}"#;
    let id = accepted(&keyed(&server, CASHOUT, "k", cashout));
    for path in ["/v1/sagas/release", "/v1/sagas/refund"] {
        let wish = r#"{"escrow_id":"0123456789abcdef0123456789abcdef"}"#;
        keyed(&server, path, "k", wish).problem(404, "not-found");
        let wish = json!({ "escrow_id": id }).to_string();
        let problem = keyed(&server, path, "k", &wish).problem(404, "not-found");
        assert!(problem["detail"].as_str().expect("text").contains("no escrow"), "{problem}");
    }
}

#[test]
fn wrong_questions_about_the_ledger_are_refused() {
    let server = server();
    for path in [
        "/v1/ledger/accounts/ann",
        "/v1/ledger/accounts/ann?currency=",
        "/v1/ledger/accounts/ann?currency=usd",
        "/v1/ledger/accounts/ann?currency=USD&currency=EUR",
        "/v1/ledger/accounts/ann?currency=USD&x=1",
        "/v1/ledger/accounts/a%2Fb?currency=USD",
        "/v1/ledger/accounts/%00?currency=USD",
        "/v1/ledger/accounts/%ff?currency=USD",
        "/v1/ledger/trial-balance?x=1",
        "/v1/ledger/postings",
        "/v1/ledger/postings?saga_id=",
        "/v1/ledger/postings?saga_id=a%2Fb",
        "/v1/ledger/postings?saga_id=a&page_size=0",
        "/v1/ledger/postings?saga_id=a&page_size=1001",
        "/v1/ledger/postings?saga_id=a&page_token=zz",
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        reply.problem(400, "invalid");
    }
    let full = json!({ "user_id": "ann", "amount": "1000000000000000", "currency": "USD" });
    assert_eq!(keyed(&server, DEPOSITS, "all", &full.to_string()).status, 201);
    let one = r#"{"user_id":"ann","amount":"0.01","currency":"USD"}"#;
    keyed(&server, DEPOSITS, "more", one).problem(422, "invalid");
}

#[test]
fn a_client_that_goes_away_leaves_whole_movements_and_finds_them_again() {
    let server = server();
    hundred(&server, "ann");
    let body = r#"{"buyer_id":"ann","seller_id":"bob","amount":"1.00","currency":"USD"}"#;
    let head = |key: &str| {
        let length = body.len();
        format!(
            "POST {ESCROW} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Idempotency-Key: {key}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    for n in 0..40 {
        let mut stream = TcpStream::connect(server.address()).expect("it listens");
        stream.write_all(head(&format!("gone-{n}")).as_bytes()).expect("it takes the request");
    }
    let ids: Vec<String> =
        (0..40).map(|n| accepted(&keyed(&server, ESCROW, &format!("gone-{n}"), body))).collect();
    for id in &ids {
        eventually("its escrow is there", || (postings(&server, id).len() == 2).then_some(()));
    }
    assert_eq!(has(&server, "ann"), ("60.00".into(), "0.00".into()));
    assert_eq!(in_balance(&server)["currencies"][0]["escrow"], "40.00");
}

#[test]
fn many_at_once_spend_no_more_than_there_is() {
    let server = server();
    hundred(&server, "ann");
    let address = server.address();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for n in 0..5 {
                    let body =
                        r#"{"user_id":"ann","amount":"7.00","currency":"USD","destination":"x"}"#;
                    let key = format!("rush-{thread}-{n}");
                    let headers = [JSON, ("Idempotency-Key", &*key)];
                    let reply = send(address, "POST", CASHOUT, &headers, body.as_bytes());
                    let status = reply.expect("an answer").status;
                    assert!(matches!(status, 202 | 422), "{status}");
                }
            });
        }
    });
    wait_until_has(&server, "ann", "2.00", "0.00");
    assert_eq!(in_balance(&server)["currencies"][0]["external"], "-2.00");
}
