//! One page for each command: what it promises, examples, exit codes, environment.

/// What of the environment a command reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reads {
    /// Where the server is, and who asks.
    Server,
    /// The settings of a server.
    Settings,
    /// Next to nothing.
    Little,
}

/// What is said of one command.
pub(super) struct Page {
    /// The names that lead to it.
    pub(super) path: &'static str,
    pub(super) reads: Reads,
    pub(super) codes: &'static [(u8, &'static str)],
    /// What is guaranteed, if that is more than the first line tells.
    pub(super) promise: &'static str,
    /// Lines that can be typed, and what they do.
    pub(super) examples: &'static [(&'static str, &'static str)],
}

const DONE: (u8, &str) = (0, "done");
const REFUSED: (u8, &str) = (1, "the server refused, or something failed");
const UNASKED: (u8, &str) = (2, "no server was reached, or the command cannot be meant");

/// Of most commands.
const USUAL: &[(u8, &str)] = &[DONE, REFUSED, UNASKED];

const fn page(
    path: &'static str,
    promise: &'static str,
    examples: &'static [(&'static str, &'static str)],
) -> Page {
    Page { path, reads: Reads::Server, codes: USUAL, promise, examples }
}

const fn judged(page: Page, codes: &'static [(u8, &'static str)]) -> Page {
    Page { codes, ..page }
}

const fn reading(page: Page, reads: Reads) -> Page {
    Page { reads, ..page }
}

/// Every page, in the order of the commands.
#[rustfmt::skip]
pub(super) const PAGES: &[Page] = &[
    reading(page("serve",
        "An acknowledged commit survives the end of the process at any moment, kill -9 included, as far as the store keeps it; `lockbay doctor` tells how far that is. SIGTERM and SIGINT end it in order: requests in flight are finished, leadership is handed over, the store is closed. A second signal ends it at once. Several servers may share one store.",
        &[
            ("lockbay serve", "on the file lockbay-data/lockbay.db, at http://127.0.0.1:5000"),
            ("lockbay serve --store redis://10.0.0.5:6379 --service payments", "one of several on a Redis"),
            ("lockbay serve --config /etc/lockbay.toml --listen 127.0.0.1:0", "settings of a file, on any free port"),
        ]), Reads::Settings),
    reading(judged(page("demo", "", &[
            ("lockbay demo", "told for people"),
            ("lockbay demo --json", "one JSON object for each promise"),
        ]), &[(0, "every promise was seen to hold"), (1, "one was not"), (2, "the command cannot be meant")]), Reads::Little),
    reading(judged(page("doctor",
        "It opens the store itself, so it also works where no server runs, and beside servers that do. It changes nothing and makes no store that is missing; the time of a write is measured on a file of its own, which it removes. Each finding says what was found, why it matters, and the setting or command that mends it.",
        &[
            ("lockbay doctor", "with the settings of this environment"),
            ("lockbay doctor --store redis://10.0.0.5:6379 --json", "another store, for a program"),
            ("lockbay doctor --config /etc/lockbay.toml", "as the server with this file would run"),
            ("lockbay doctor --accept-store --yes", "let effects resume on a store that has lost data"),
        ]), &[(0, "nothing is wrong, though there may be warnings"), (1, "something is wrong"), (2, "the command cannot be meant")]), Reads::Settings),
    reading(judged(page("config",
        "Settings come from defaults, then the file, then the environment, then flags; the later wins. Secrets are never shown. `config check` reads a file with this environment, as `serve --config` would, and names the first mistake.",
        &[
            ("lockbay config", "every setting and where it comes from"),
            ("lockbay config --config /etc/lockbay.toml --changed", "only those that are no defaults"),
            ("lockbay config --json", "for a program"),
        ]), &[(0, "done"), (1, "a setting is wrong; it is named"), (2, "the command cannot be meant")]), Reads::Settings),
    reading(judged(page("config check", "", &[
            ("lockbay config check /etc/lockbay.toml", "before a deployment"),
        ]), &[(0, "the file can be used"), (1, "it cannot; the reason is told"), (2, "the command cannot be meant")]), Reads::Settings),
    reading(judged(page("backup",
        "The copy is the store as it was at one moment, while servers go on. It is written beside its name, checked by SQLite, brought to the disk, and only then given its name: a file of that name is whole. Nothing is replaced. It holds every namespace of the file, and is readable by its owner only. A Redis is backed up with its own means, which the command names. docs/operations.md tells how a backup is put back.",
        &[
            ("lockbay backup --to /backup/lockbay-monday.db", "the store of this environment"),
            ("lockbay backup --store sqlite:/var/lib/lockbay/lockbay.db --to copy.db --json", "another file, told to a program"),
            ("lockbay backup --check /backup/lockbay-monday.db", "whether an older copy is whole"),
        ]), &[(0, "the copy is there and whole"), (1, "it is not; nothing of that name was left"), (2, "the command cannot be meant")]), Reads::Settings),
    judged(page("health", "Judged by what happened lately, not by whether the process is there. A part that is not well says since when and why.", &[
            ("lockbay health", "told for people"),
            ("lockbay health --json --url http://10.0.0.7:5000", "another server, for a program"),
        ]), &[(0, "it is healthy, perhaps degraded"), (1, "it is not"), UNASKED]),
    page("report", "", &[
            ("lockbay report", "the last day, as text"),
            ("lockbay report --hours 168 --format markdown", "the last week, to be pasted"),
            ("lockbay report --format html", "a page that needs nothing else"),
        ]),
    page("events", "After a broken connection it comes back by itself and goes on where it stopped; what was missed and is not kept any more is told as a gap.", &[
            ("lockbay events", "everything, until it is interrupted"),
            ("lockbay events --events saga_parked,rights_lost --json", "these two, a JSON object a line"),
            ("lockbay events --limit 10", "the next ten"),
        ]),
    page("metrics", "", &[
            ("lockbay metrics", "every number of the server by its path"),
            ("lockbay metrics --path saga_metrics.step_seconds.p99 --minutes 60", "how one went within the last hour"),
            ("lockbay metrics --paths", "which metrics have a history"),
            ("lockbay metrics --prometheus", "as a scraper gets them"),
        ]),
    page("trends", "Judged from the history that the server keeps: what has too few points is said not to be known.", &[
            ("lockbay trends", "whether the important metrics get better or worse"),
            ("lockbay trends --hours 72 --path saga_metrics.saga_seconds.p95", "one metric over three days"),
        ]),
    page("top", "It only looks, with the rights of its token. When the server goes, it says so and comes back by itself. The terminal is put back in order however it ends. Keys: q ends, tab and the arrows change the view, j and k move, p pauses, r looks at once.", &[
            ("lockbay top", "live, until q"),
            ("lockbay top --interval 5s --url http://10.0.0.7:5000", "another server, less often"),
            ("lockbay top --once", "one frame as text, for a script"),
            ("lockbay top --json", "a JSON object a line, until it is interrupted"),
        ]),
    page("leader status", "", &[("lockbay leader status", "who leads, by which term, until when")]),
    page("leader resign", "Its rights end at once, before another is elected: there are never two leaders. It may be elected again.", &[
            ("lockbay leader resign --url http://10.0.0.7:5000 --yes", "before this server is taken down"),
        ]),
    page("lease list", "", &[
            ("lockbay lease list", "who holds what"),
            ("lockbay lease list --page-size 1000 --json", "for a program"),
        ]),
    page("lease show", "", &[("lockbay lease show nightly-payouts", "one lease")]),
    page("lease release", "Whoever held it is fenced: what they still try under its token is refused.", &[
            ("lockbay lease release nightly-payouts", "asks first, and names the holder"),
            ("lockbay lease release nightly-payouts --fencing-token 4711 --yes", "only if nobody else has got it meanwhile"),
        ]),
    page("job list", "", &[
            ("lockbay job list --status failed --type payment", "failed payments, the newest first"),
            ("lockbay job list --key order_17", "the jobs of one business key"),
        ]),
    page("job show", "", &[("lockbay job show j1 --json", "one job with its parameters and outcome")]),
    page("job cancel", "Whoever runs it is fenced: it cannot complete it any more. What it has done outside stays.", &[
            ("lockbay job cancel j1 --reason 'a duplicate of order 16'", "asks first"),
        ]),
    page("job retry", "It runs when it is claimed next, with the idempotency token that it had.", &[
            ("lockbay job retry j1 --reason 'the bank is back'", "a job that failed or was cancelled"),
        ]),
    page("job bulk", "Each job is decided upon by itself; those that refuse are told, and the others go on.", &[
            ("lockbay job bulk retry --status failed --type payment --reason 'the bank is back' --dry-run", "which jobs are meant"),
            ("lockbay job bulk cancel --type import --status claimed --reason 'wrong file' --yes", "all claimed imports"),
        ]),
    page("search", "What was entered up to a moment ago is found by its words, and what is named to the letter at once. Masked fields are not looked through.", &[
            ("lockbay search order-17", "jobs and sagas in which it stands"),
            ("lockbay search 'ann eur' --kind saga", "both words, sagas alone"),
        ]),
    page("saga list", "", &[
            ("lockbay saga list --status parked", "what waits for a person"),
            ("lockbay saga list --name payout --step send --older-than 10m", "what hangs in one step"),
        ]),
    page("saga show", "", &[
            ("lockbay saga show s1", "how it stands, step by step"),
            ("lockbay saga show s1 --wait 30s", "until it has ended, for half a minute at most"),
        ]),
    page("saga history", "", &[("lockbay saga history s1", "every entry of its log, in order")]),
    judged(page("saga start", "It is durable when this returns: it is brought to its end whatever dies. With the same key, the same request gives the same saga.", &[
            ("lockbay saga start payout.json --idempotency-key order-17", "and say its id"),
            ("lockbay saga start - --wait 60s", "from stdin, and wait for the end"),
        ]), &[(0, "it is started; with --wait, it is completed"), (1, "it was refused; with --wait, it ended otherwise, is parked, or goes on"), UNASKED]),
    judged(page("saga watch", "It asks the server to wait, comes back after a broken connection, and goes on where it stopped: each entry is told once.", &[
            ("lockbay saga watch s1", "each entry as it comes, until the end"),
            ("lockbay saga watch s1 --json", "the entries, and the saga at the end, a JSON object a line"),
            ("lockbay saga watch s1 --for 5m", "for five minutes at most"),
        ]), &[(0, "it is completed"), (1, "it is compensated, parked or abandoned, or goes on after --for"), UNASKED]),
    page("saga cancel", "What was done is compensated in reverse order; a saga past its pivot cannot go back, and refuses.", &[
            ("lockbay saga cancel s1 --reason 'the customer withdrew'", "one saga; asks first"),
            ("lockbay saga cancel --all-matching --name payout --older-than 1h --reason 'bank is down' --dry-run", "which ones that would be"),
        ]),
    page("saga resume", "", &[
            ("lockbay saga resume s1 --reason 'the bank is back'", "one parked saga"),
            ("lockbay saga resume --all-matching --status parked --step send --reason 'the bank is back'", "all that are parked in this step"),
        ]),
    page("saga abandon", "Nothing is done about it any more, and what was done stays: whoever says so puts it right by other means.", &[
            ("lockbay saga abandon s1 --reason 'settled by hand, ticket 812'", "asks first"),
        ]),
    page("saga retry", "", &[
            ("lockbay saga retry s1 send --reason 'account corrected' --parameters '{\"iban\":\"DE02\"}'", "a step, with other parameters"),
        ]),
    page("saga skip", "", &[("lockbay saga skip s1 notify --reason 'told by phone'", "go on without a parked step; asks first")]),
    page("saga resolve", "What is said here is taken for the truth: look at the system that received the effect first.", &[
            ("lockbay saga resolve s1 send --outcome done --result '{\"id\":\"t9\"}' --reason 'seen at the bank'", "its effect is there"),
            ("lockbay saga resolve s1 send --outcome undone --reason 'not at the bank'", "its effect is not there"),
        ]),
    page("handler list", "", &[("lockbay handler list", "who does the steps of sagas")]),
    page("handler put", "", &[
            ("lockbay handler put send https://bank.example/send --secret-file secret.txt", "called at an address, signed"),
            ("lockbay handler put count --pull", "done by workers that poll"),
        ]),
    page("handler delete", "", &[("lockbay handler delete send --yes", "sagas that need it wait for a person")]),
    page("schedule list", "", &[("lockbay schedule list --status paused", "what does not run now")]),
    page("schedule show", "", &[("lockbay schedule show nightly", "when it is due, and how it went")]),
    page("schedule put", "Said again, nothing changes. Each tick is run once, whoever leads.", &[
            ("lockbay schedule put nightly '0 2 * * *' --handler payouts --time-zone Europe/Berlin", "at two in the night, in Berlin"),
            ("lockbay schedule put pulse 'every 30s' --handler ping --misfire skip", "late ticks are passed over"),
        ]),
    page("schedule delete", "", &[("lockbay schedule delete nightly --yes", "what was begun is finished")]),
    page("schedule pause", "", &[("lockbay schedule pause nightly", "begin no more ticks")]),
    page("schedule resume", "", &[("lockbay schedule resume nightly --catch-up", "let the misfire policy judge what was missed")]),
    page("schedule run", "", &[("lockbay schedule run nightly --idempotency-key monday", "a tick now, once for this key")]),
    reading(page("schedule next", "", &[
            ("lockbay schedule next '30 2 * * *' --time-zone Europe/Berlin --count 3", "try an expression out"),
        ]), Reads::Little),
    page("ledger account", "", &[("lockbay ledger account alice --currency USD", "what she has at her disposal, and held")]),
    page("ledger deposit", "It is carried out once for each key. Without a key one is made and told before anything is sent, so that a lost answer can be asked for again.", &[
            ("lockbay ledger deposit alice 100.00 USD --idempotency-key wire-8812", "money that came in"),
        ]),
    page("ledger escrow", "Once for each key; see `ledger deposit`.", &[
            ("lockbay ledger escrow alice bob 25.00 USD --idempotency-key order-17", "the escrow's id is the saga's"),
        ]),
    page("ledger release", "Once for each key.", &[("lockbay ledger release s1 --idempotency-key order-17-paid", "pay the seller")]),
    page("ledger refund", "Once for each key.", &[("lockbay ledger refund s1 --idempotency-key order-17-back", "give it back to the buyer")]),
    page("ledger cashout", "Once for each key. The money is held until whoever pays out has said how it went.", &[
            ("lockbay ledger cashout bob 25.00 USD DE02120300000000202051 --idempotency-key out-3", "pay him out"),
        ]),
    judged(page("ledger trial-balance", "It adds everything up as it was at one moment, while money moves.", &[
            ("lockbay ledger trial-balance", "every currency comes to zero"),
        ]), &[(0, "it all adds up"), (1, "a currency does not come to zero"), UNASKED]),
    page("ledger postings", "", &[("lockbay ledger postings s1", "the movements of a saga")]),
    judged(page("token create", "The secret is written to stdout, this once: nobody can find it out later. The first token of a store is an admin token, and from then on a server does nothing for whoever shows none. With --store it is made without a server, which is the way where none may run before it is closed.", &[
            ("lockbay token create --role admin --name ann --expires 90d --store sqlite:lockbay-data/lockbay.db", "the first one, on the store itself"),
            ("lockbay token create --role operator --name payouts", "one for a service; stdout is the token alone, for a file that --token-file names"),
            ("lockbay token create --role viewer --name wallboard --json", "with its id and end, for a program"),
        ]), USUAL),
    page("token list", "", &[("lockbay token list", "who may do what, without secrets")]),
    page("token revoke", "Within a second every server refuses it, with the sessions that it began. The last admin token goes with --store alone.", &[
            ("lockbay token revoke 1f3a --reason 'left the team'", "nobody takes it any more"),
        ]),
    page("approval list", "", &[("lockbay approval list --status waiting", "what waits for somebody")]),
    page("approval show", "", &[("lockbay approval show apr_1", "what will be done, and who asked")]),
    judged(page("approval approve", "Who asked cannot allow it. What was allowed is done once; if that is not known, it can be allowed again.", &[
            ("lockbay approval approve apr_1 --reason 'seen on the account'", "asks first, and says what will happen"),
        ]), &[(0, "it was allowed and done"), (1, "it was allowed and could not be done, or the server refused"), UNASKED]),
    page("approval reject", "", &[("lockbay approval reject apr_1 --reason 'not agreed'", "it is never done")]),
    page("state get", "", &[
            ("lockbay state get user:7", "its value, version and tags"),
            ("lockbay state get user:7 --max-stale 30s", "an older one will do when the store is away"),
        ]),
    page("state set", "", &[
            ("lockbay state set user:7 '{\"name\":\"Ada\"}' --ttl 10m --tag users", "for ten minutes"),
            ("lockbay state set user:7 '1' --if-version 0", "only if there is no value yet"),
        ]),
    page("state delete", "", &[("lockbay state delete user:7", "and invalidate what depends on it")]),
    page("state invalidate", "", &[
            ("lockbay state invalidate --tag users", "everything with this tag"),
            ("lockbay state invalidate --pattern 'user:*:cart'", "everything that a glob means"),
            ("lockbay state invalidate --updated user:7", "what follows by rules and dependencies"),
        ]),
    page("state list", "", &[("lockbay state list --prefix user:", "keys without their values")]),
    page("state rules list", "", &[("lockbay state rules list", "what follows from which change")]),
    page("state rules show", "", &[("lockbay state rules show carts", "one rule")]),
    page("state rules put", "", &[("lockbay state rules put carts 'user:{id}' 'cart:{id}' 'offers:{id}:*'", "a change of a user voids the cart")]),
    page("state rules delete", "", &[("lockbay state rules delete carts --yes", "nothing follows by it any more")]),
    page("state depend put", "", &[("lockbay state depend put page:home user:7 offers", "it is made of these two")]),
    page("state depend show", "", &[("lockbay state depend show page:home", "of what it is made")]),
    page("state depend delete", "", &[("lockbay state depend delete page:home", "it depends on nothing any more")]),
    judged(page("cleanup run", "Only what a rule lets go is deleted, under the leader's fence, a batch at a time. What was begun goes on if this command ends.", &[
            ("lockbay cleanup run --dry-run", "what would go"),
            ("lockbay cleanup run --type completed_jobs --yes", "one rule, now"),
            ("lockbay cleanup run --pattern 'session:*' --ttl 1h --dry-run", "keys like these, older than an hour"),
        ]), &[DONE, (1, "it was refused, or something could not be read or deleted"), UNASKED]),
    page("cleanup rules", "", &[("lockbay cleanup rules", "in the order in which they are gone through")]),
    page("cleanup show-rule", "", &[("lockbay cleanup show-rule completed_jobs", "one rule as JSON")]),
    page("cleanup put-rule", "", &[("lockbay cleanup put-rule carts --pattern 'cart:*' --ttl 24h --strategy batch --interval 10m", "let carts go after a day")]),
    page("cleanup delete-rule", "", &[("lockbay cleanup delete-rule carts --yes", "what it would clean up stays")]),
    page("cleanup optimize-memory", "", &[("lockbay cleanup optimize-memory --yes", "run the lazy rules, and give space back")]),
    page("alerts list", "", &[
            ("lockbay alerts list --state firing", "what fires now"),
        ]),
    page("alerts rules", "", &[("lockbay alerts rules", "what is judged, and when it fires")]),
    page("alerts rules show", "", &[("lockbay alerts rules show saga_parked", "as JSON that can be put again")]),
    page("alerts rules put", "", &[("lockbay alerts rules put rule.json", "in the place of the one of its name")]),
    page("alerts rules delete", "", &[("lockbay alerts rules delete carts_slow --yes", "what fires by it resolves")]),
    page("alerts rules test", "", &[("lockbay alerts rules test saga_parked --minutes 10080", "when it would have fired within a week")]),
    reading(judged(page("alerts test", "It needs no server: time and values stand in the file.", &[
            ("lockbay alerts test rules.toml", "in a pipeline, before rules are put"),
        ]), &[(0, "every test passed"), (1, "one failed"), (2, "the file cannot be read")]), Reads::Little),
    page("alerts silence", "What still fires when the silence ends is told then.", &[
            ("lockbay alerts silence 'saga_*' --for 2h --reason 'the bank moves house'", "for two hours"),
            ("lockbay alerts silence store_slow --window '0 3 * * 0' --window-for 1h --reason backup", "each Sunday at three, for an hour"),
        ]),
    page("alerts silences", "", &[("lockbay alerts silences", "what is kept quiet, by whom and why")]),
    page("alerts show-silence", "", &[("lockbay alerts show-silence n1", "one silence as JSON")]),
    page("alerts unsilence", "", &[("lockbay alerts unsilence n1", "end a silence now")]),
    page("alerts notifications", "", &[
            ("lockbay alerts notifications --status dead", "what could not be delivered"),
        ]),
    page("alerts show-notification", "", &[("lockbay alerts show-notification n1", "one notice as JSON, with what each channel said")]),
    page("alerts retry", "", &[("lockbay alerts retry n1", "try a dead letter again")]),
    judged(page("alerts notify-test", "", &[("lockbay alerts notify-test", "through every channel of the server")]),
        &[(0, "every channel delivered"), (1, "one did not, or it was refused"), UNASKED]),
    page("audit tail", "", &[
            ("lockbay audit tail -n 50", "the last fifty changes"),
            ("lockbay audit tail --follow --actor ada", "what Ada changes, as it comes"),
            ("lockbay audit tail --entity 'saga/*' --json", "of sagas, for a program"),
        ]),
    page("audit history", "", &[
            ("lockbay audit history saga/s1", "everything that happened to one entity, the newest first"),
        ]),
    page("audit checkpoints", "", &[
            ("lockbay audit checkpoints", "what was sealed, and by which hash; keep one elsewhere"),
        ]),
    judged(page("audit verify", "Whatever was changed, dropped or inserted behind a checkpoint is found. Without --public-key a file is judged by the key that it names itself.", &[
            ("lockbay audit verify --records", "the store of the server, its records too"),
            ("lockbay audit verify export.jsonl --public-key ed25519:00", "an export, here, without a server"),
        ]), &[(0, "nothing was touched"), (1, "something was, or it was refused"), UNASKED]),
    page("audit export", "The file proves itself: `audit verify FILE` needs no server. One that was cut off says so, and ends with exit code 1.", &[
            ("lockbay audit export --from 2026-11-01T00:00:00Z --output november.jsonl", "into a file, with progress on a terminal"),
            ("lockbay audit export", "everything, to stdout"),
        ]),
    page("audit proof", "", &[("lockbay audit proof 4711 --to-checkpoint 90", "that an entry was sealed")]),
    page("audit key", "", &[("lockbay audit key", "to be kept where the store cannot be written")]),
    reading(page("bench", "It works in a namespace of its own, which it empties; it prints figures and judges none. What it measures is this machine: run it while nothing else does.", &[
            ("lockbay bench saga --concurrency 64 --raw", "beside the bare store doing the same writes"),
            ("lockbay bench job --store redis://127.0.0.1:6379 --json", "a JSON object for each measurement"),
            ("lockbay bench idle --seconds 60", "what an instance costs that has nothing to do"),
        ]), Reads::Little),
    reading(page("completions", "How it is installed is told on stderr of a terminal.", &[
            ("lockbay completions bash", "for ~/.local/share/bash-completion/completions/lockbay"),
            ("lockbay completions zsh", "for a file _lockbay in a directory of fpath"),
            ("lockbay completions fish", "for ~/.config/fish/completions/lockbay.fish"),
        ]), Reads::Little),
];
