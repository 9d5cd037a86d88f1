// Jobs: work that happens once for each key, by status, type and key.

import { decideOnMany, selection } from "../bulk.js";
import { JOB_VERBS } from "../decisions.js";
import { hasSearch } from "../features.js";
import { latestOfEach } from "../latest.js";
import { actor } from "../saga-parts.js";
import { badge, button, duration, empty, h, id, listView, pageHead, statusBadge, time, words } from "../ui.js";

const PAGE_SIZE = 50;
const LOOK_EVERY_MS = 3_000;
const STATUSES = ["", "claimed", "failed", "completed", "cancelled"];

/** What the list without a status shows. */
const LATEST = { open: ["failed", "claimed"], ended: ["completed", "cancelled"], endOf: (job) => job.completed_at };

const FILTERS = [
  { name: "status", label: "Status", type: "select", options: STATUSES.map((status) => [status, status ? words(status) : "Latest of each"]) },
  { name: "job_type", label: "Type", placeholder: "mail", width: 14 },
  { name: "job_key", label: "Key", placeholder: "welcome-1" },
];
/** By this a list can be searched and nothing can be decided upon: what is found is no list to go by. */
const SEARCH = { name: "q", label: "Words in it", placeholder: "ann@example.com", width: 20 };

/** Statuses as people take them: a claim that lapsed is nobody's. */
export function jobStatus(job) {
  if (job.lapsed) return badge("Lapsed", "warn", "Its claim ran out, and nobody has claimed it since.");
  if (job.status === "failed" && job.next_retry_at) return badge("Retrying", "warn", "An attempt failed, and another one may be made.");
  return statusBadge(job.status);
}

const address = (job) => `#/jobs/${encodeURIComponent(job.job_id)}`;

const took = (job) => (job.completed_at ? duration(new Date(job.completed_at) - new Date(job.claimed_at)) : "");

export default {
  title: "Jobs",
  async render(root, _params, ctx) {
    const filters = (await hasSearch()) ? [SEARCH, ...FILTERS] : FILTERS;
    const filter = () => Object.fromEntries(filters.map(({ name }) => [name, ctx.query.get(name)]).filter(([, value]) => value));
    const decide = async (rows) => {
      const decided = await decideOnMany(ctx, { noun: "job", path: "v1/jobs", idOf: (job) => job.job_id, verbs: JOB_VERBS, rows, filter: rows ? undefined : filter() });
      if (decided) {
        chosen.clear();
        view.refresh();
      }
    };
    const chosen = selection((job) => job.job_id, (job) => `${job.job_type} ${job.job_key}`, (rows) => {
      if (rows.length > 0) return button("Decide on selected…", { small: true, need: "operator", ctx, onclick: () => decide(rows) });
      const listed = Object.keys(filter()).length > 0 && !ctx.query.get(SEARCH.name);
      return listed && button("Decide on all that match…", { small: true, tone: "plain", need: "operator", ctx, onclick: () => decide() });
    });
    let seen = "";
    let more = false;
    const page = (values, page_token) => {
      if (!values.status && !values.q) return latestOfEach(ctx, "v1/jobs", values, LATEST);
      return ctx.api.get("v1/jobs", { query: { ...values, page_size: PAGE_SIZE, page_token }, signal: ctx.signal });
    };
    const view = listView(ctx, {
      fetch: async (values, page_token) => {
        const found = await page(values, page_token);
        if (!page_token) seen = JSON.stringify(found.items);
        more = Boolean(found.more);
        return found;
      },
      filters,
      caption: "Jobs",
      href: address,
      key: (job) => job.job_id,
      tone: (job) => (job.status === "failed" && !job.next_retry_at ? "bad" : job.lapsed ? "warn" : ""),
      above: () => (chosen.draw(), [chosen.bar, more && h("p.thin.faint", "The latest of each status. Choose one to see all of it.")]),
      nothing: empty("No jobs yet", "A job is claimed with POST /v1/jobs/claim before its work begins, so that it runs once."),
      columns: [
        chosen.column,
        { label: "Status", render: jobStatus },
        { label: "Job", render: (job) => h("span.named", h("a.strong.wrap", { href: address(job) }, job.job_key), id(job.job_id)) },
        { label: "Type", render: (job) => h("span.clip.short", { title: job.job_type }, job.job_type) },
        { label: "Attempt", align: "end", render: (job) => h("span.figure", job.attempt) },
        { label: "Holder, or what went wrong", grow: true, render: (job) => (job.error ? h("span.clip.bad", { title: job.error }, job.error) : actor(job.holder)) },
        { label: "Claimed", render: (job) => time(job.claimed_at) },
        { label: "Took", align: "end", hide: "narrow", render: (job) => h("span.figure", took(job)) },
      ],
      refreshOn: ["job_failed", "claim_lost"],
    });
    // Jobs come and go without events, so the first page is asked for again.
    ctx.every(LOOK_EVERY_MS, async () => {
      if (ctx.query.get("status") && view.rows().length > PAGE_SIZE) return;
      try {
        const found = await page(filter());
        if (JSON.stringify(found.items) !== seen) view.refresh();
      } catch {
        // The connection above says that the server does not answer.
      }
    });
    root.append(pageHead("Jobs", { note: "Work that happens once for each key, whoever asks for it and however often." }), view.element);
  },
};
