//! `lockbay ledger`: what users have, money that comes in and moves, and whether it all adds up.
//!
//! Whatever moves money names its request with a key. If none is given one is made and told before
//! anything is sent, so that a command whose answer was lost can be repeated safely.

use clap::{Args, Subcommand};
use lockbay::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::approval::told_to_wait;
use super::client::{Answer, Client, Failure, Page};
use super::{Ended, output};

#[derive(Debug, Subcommand)]
pub(super) enum LedgerCommand {
    /// Show what a user has in one currency
    Account {
        /// The user's id
        user: String,
        /// The currency's code, such as USD; without, each in which the user has anything
        #[arg(long, value_name = "CODE")]
        currency: Option<String>,
    },
    /// Put money that came in from outside at a user's disposal
    Deposit {
        /// The user's id
        user: String,
        #[command(flatten)]
        money: MoneyArgs,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Set a buyer's money apart for a seller; the escrow's id is the saga's
    Escrow {
        /// Whose money it is
        buyer: String,
        /// For whom it is set apart
        seller: String,
        #[command(flatten)]
        money: MoneyArgs,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Pay an escrow to its seller
    Release {
        /// The escrow's id
        escrow: String,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Give an escrow back to its buyer
    Refund {
        /// The escrow's id
        escrow: String,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Pay a user out
    Cashout {
        /// The user's id
        user: String,
        #[command(flatten)]
        money: MoneyArgs,
        /// Where to, in the words of who pays out
        destination: String,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Add up all accounts: exit code 0 if every currency comes to zero, 1 if not
    TrialBalance,
    /// Show the movements of a saga with their legs
    Postings {
        /// The saga's id
        saga: String,
        /// How many movements at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct MoneyArgs {
    /// How much, such as 10.50
    amount: String,
    /// The currency's code, such as USD
    currency: String,
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// Names this request: said again with the same key, it is not carried out again [default: made and told]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct Account {
    user_id: String,
    available: String,
    held: String,
    currency: String,
}

#[derive(Deserialize)]
struct Accepted {
    saga_id: String,
    status: String,
}

#[derive(Deserialize)]
struct Trial {
    balanced: bool,
    as_of: String,
    at: String,
    currencies: Vec<Totals>,
}

#[derive(Deserialize)]
struct Totals {
    currency: String,
    sum: String,
    available: String,
    held: String,
    held_by_users: String,
    escrow: String,
    external: String,
}

#[derive(Deserialize)]
struct Movement {
    movement_id: String,
    kind: String,
    currency: String,
    legs: Vec<Leg>,
    at: String,
}

#[derive(Deserialize)]
struct Leg {
    account: String,
    amount: String,
    balance: String,
}

pub(super) async fn obey(client: &Client, command: LedgerCommand) -> Result<Ended, Failure> {
    match command {
        LedgerCommand::Account { user, currency: Some(currency) } => {
            account(client, &user, currency).await
        }
        LedgerCommand::Account { user, currency: None } => accounts(client, &user).await,
        LedgerCommand::Deposit { user, money, key } => deposit(client, &user, &money, key).await,
        LedgerCommand::Escrow { buyer, seller, money, key } => {
            let MoneyArgs { amount, currency } = money;
            let body = json!({
                "buyer_id": buyer, "seller_id": seller, "amount": amount, "currency": currency,
            });
            start(client, "escrow", &body, key, None).await
        }
        LedgerCommand::Release { escrow, key } => {
            let question = format!("Pay escrow {escrow} to its seller?");
            start(client, "release", &json!({ "escrow_id": escrow }), key, Some(&question)).await
        }
        LedgerCommand::Refund { escrow, key } => {
            let question = format!("Give escrow {escrow} back to its buyer?");
            start(client, "refund", &json!({ "escrow_id": escrow }), key, Some(&question)).await
        }
        LedgerCommand::Cashout { user, money, destination, key } => {
            let MoneyArgs { amount, currency } = money;
            let question = format!("Pay {amount} {currency} of user {user} to {destination}?");
            let body = json!({
                "user_id": user, "amount": amount, "currency": currency,
                "destination": destination,
            });
            start(client, "cashout", &body, key, Some(&question)).await
        }
        LedgerCommand::TrialBalance => trial_balance(client).await,
        LedgerCommand::Postings { saga, page_size, page_token } => {
            postings(client, saga, page_size, page_token).await
        }
    }
}

async fn account(client: &Client, user: &str, currency: String) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "ledger", "accounts", user], &[("currency", Some(currency))]);
    let answer = client.get(&format!("show the account of user {user:?}"), url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let Account { user_id, available, held, currency } = answer.read()?;
    output::facts(vec![
        ("user", user_id),
        ("currency", currency),
        ("available", available),
        ("held", held),
    ]);
    Ok(Ended::Done)
}

/// What a user has in each currency that the ledger knows.
async fn accounts(client: &Client, user: &str) -> Result<Ended, Failure> {
    let what = format!("show the accounts of user {user:?}");
    let url = client.address(&["v1", "ledger", "trial-balance"], &[]);
    let known: Trial = client.get(&what, url).await?.read()?;
    let mut found = Vec::new();
    for Totals { currency, .. } in known.currencies {
        let query = [("currency", Some(currency))];
        let url = client.address(&["v1", "ledger", "accounts", user], &query);
        let account: Account = client.get(&what, url).await?.read()?;
        let is_nothing = |amount: &str| amount.chars().all(|c| matches!(c, '0' | '.'));
        if !(is_nothing(&account.available) && is_nothing(&account.held)) {
            found.push(account);
        }
    }
    if client.json {
        output::data(&json!({ "items": found }).to_string());
        return Ok(Ended::Done);
    }
    let rows = found.into_iter().map(|account| {
        let Account { user_id, available, held, currency } = account;
        vec![user_id, currency, available, held]
    });
    output::table(&["USER", "CURRENCY", "AVAILABLE", "HELD"], rows.collect());
    Ok(Ended::Done)
}

async fn deposit(
    client: &Client,
    user: &str,
    money: &MoneyArgs,
    key: KeyArgs,
) -> Result<Ended, Failure> {
    let MoneyArgs { amount, currency } = money;
    let body = json!({ "user_id": user, "amount": amount, "currency": currency });
    let what = format!("deposit {amount} {currency} for user {user:?}");
    let answer = send(client, &what, &["v1", "ledger", "deposits"], &body, key).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    if told_to_wait(&answer) {
        return Ok(Ended::Done);
    }
    let Account { user_id, available, held, currency } = answer.read()?;
    let (user, available) = (output::shown(&user_id), output::shown(&available));
    let (held, currency) = (output::shown(&held), output::shown(&currency));
    output::data(&format!("user {user} has {available} {currency} available, {held} held"));
    Ok(Ended::Done)
}

/// Starts one of the sagas that move money, after asking if that hurts.
async fn start(
    client: &Client,
    kind: &str,
    body: &Value,
    key: KeyArgs,
    question: Option<&str>,
) -> Result<Ended, Failure> {
    if question.is_some_and(|question| !client.confirm(question)) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let what = format!("start the {kind}");
    let answer = send(client, &what, &["v1", "sagas", kind], body, key).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let Accepted { saga_id, status } = answer.read()?;
    output::data(&format!("saga {} is {}", output::shown(&saga_id), output::shown(&status)));
    Ok(Ended::Done)
}

/// Sends a change under its key.
async fn send(
    client: &Client,
    what: &str,
    path: &[&str],
    body: &Value,
    key: KeyArgs,
) -> Result<Answer, Failure> {
    let key = key.idempotency_key.unwrap_or_else(|| {
        let key = Clock::system().random_id();
        output::talk(&format!("to repeat this safely, add --idempotency-key {key}"));
        key
    });
    let body = body.to_string().into_bytes();
    let url = client.address(path, &[]);
    let answer = client.post_exactly(what, url, body, Some(&key)).await?;
    if answer.replayed {
        output::talk("this request was carried out before; nothing was done anew");
    }
    Ok(answer)
}

async fn trial_balance(client: &Client) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "ledger", "trial-balance"], &[]);
    let answer = client.get("take a trial balance", url).await?;
    let Trial { balanced, as_of, at, currencies } = answer.read()?;
    if client.json {
        answer.show_raw();
    } else {
        let rows = currencies.into_iter().map(|totals| {
            let Totals { currency, sum, available, held, held_by_users, escrow, external } = totals;
            let held = if held == held_by_users {
                held
            } else {
                format!("{held} (users say {held_by_users})")
            };
            vec![currency, sum, available, held, escrow, external]
        });
        let heading = ["CURRENCY", "SUM", "AVAILABLE", "HELD", "ESCROW", "EXTERNAL"];
        output::table(&heading, rows.collect());
        output::talk(&format!("as of commit {as_of}, {at}"));
    }
    if balanced {
        return Ok(Ended::Done);
    }
    output::talk(
        "lockbay: the ledger is unbalanced, which is a defect or a damaged store\n\
         next: stop what moves money, and compare the store with its last good backup",
    );
    Ok(Ended::No)
}

async fn postings(
    client: &Client,
    saga: String,
    page_size: Option<u32>,
    page_token: Option<String>,
) -> Result<Ended, Failure> {
    let what = format!("show the postings of saga {saga:?}");
    let query = [
        ("saga_id", Some(saga)),
        ("page_size", page_size.map(|n| n.to_string())),
        ("page_token", page_token),
    ];
    let url = client.address(&["v1", "ledger", "postings"], &query);
    let answer = client.get(&what, url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Movement> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().flat_map(|movement| {
        let Movement { movement_id, kind, currency, legs, at } = movement;
        legs.into_iter().map(move |leg| {
            let Leg { account, amount, balance } = leg;
            let amount = format!("{amount} {currency}");
            vec![movement_id.clone(), kind.clone(), account, amount, balance, at.clone()]
        })
    });
    let heading = ["MOVEMENT", "KIND", "ACCOUNT", "AMOUNT", "BALANCE THEN", "AT"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}
