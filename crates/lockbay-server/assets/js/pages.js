// Every page, one line each: its route, its module, and where it stands in the navigation.
//
// A page module has `export default { title, async render(root, params, ctx) }`. It fills `root`, and
// may give a function that is called when the page is left. `params` are the `:names` of its route.
// `ctx` is what a page gets of the shell; see `contextOf` in app.js.
//
// `key` is the letter behind `g` that leads there. `probe` is a path of the API without which the page
// is not shown, because this server does not have that part.

const page = (route, module, nav = {}) => ({ route, load: () => import(`./pages/${module}.js`), ...nav });

export const PAGES = [
  page("/", "overview", { label: "Overview", group: "", key: "o" }),
  page("/sagas", "sagas", { label: "Sagas", group: "Work", key: "s" }),
  page("/sagas/:saga_id", "saga"),
  page("/jobs", "jobs", { label: "Jobs", group: "Work", key: "j" }),
  page("/jobs/:job_id", "job"),
  page("/schedules", "schedules", { label: "Schedules", group: "Work", key: "d" }),
  page("/schedules/:job_id", "schedule"),
  page("/ledger", "ledger", { label: "Ledger", group: "Money", key: "l" }),
  page("/alerts", "alerts", { label: "Alerts", group: "Watch", key: "a" }),
  page("/alerts/rules/:name", "alert-rule"),
  page("/metrics", "metrics", { label: "Metrics", group: "Watch", key: "m" }),
  page("/state", "state", { label: "State", group: "Data", key: "t" }),
  page("/state/keys/:key", "state-key"),
  page("/cleanup", "cleanup", { label: "Cleanup", group: "Data", key: "c" }),
  page("/audit", "audit", { label: "Audit", group: "System", key: "u" }),
  page("/instances", "instances", { label: "Instances", group: "System", key: "i" }),
  page("/approvals", "approvals", { label: "Approvals", group: "System", key: "p", probe: "v1/approvals?page_size=1" }),
  page("/tokens", "tokens", { label: "Tokens", group: "System", key: "k", need: "admin", probe: "v1/tokens?page_size=1" }),
];

/** The order of the groups in the navigation. */
export const GROUPS = ["", "Work", "Money", "Data", "Watch", "System"];
