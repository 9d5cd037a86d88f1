// One job: how it stands, its attempt, what it was given and what came of it.

import { segment } from "../api.js";
import { decideOnJob, JOB_VERBS } from "../decisions.js";
import { actor, attemptDue, brief, callout, countdown, length } from "../saga-parts.js";
import { button, copyButton, facts, h, id, json, load, pageHead, panel, table, time } from "../ui.js";
import { jobStatus } from "./jobs.js";

const LOOK_EVERY_MS = 1_500;

export default {
  title: ({ job_id }) => `Job ${job_id.slice(0, 8)}`,
  async render(root, { job_id }, ctx) {
    const path = `v1/jobs/${segment(job_id)}`;
    let seen = "";
    const again = load(root, ctx, async () => {
      const [job, audit] = await Promise.all([
        ctx.api.get(path, { signal: ctx.signal }),
        ctx.api.maybe("v1/audit/history", { query: { entity: `job/${job_id}`, page_size: 100 }, signal: ctx.signal }).catch(() => null),
      ]);
      seen = JSON.stringify(job);
      ctx.title(`${job.job_type} ${job.job_key}`);
      return draw(job, audit, ctx, again);
    });
    ctx.every(LOOK_EVERY_MS, async () => {
      try {
        if (JSON.stringify(await ctx.api.get(path, { signal: ctx.signal })) !== seen) again();
      } catch {
        // What is shown stays; the connection above says that the server does not answer.
      }
    });
  },
};

function draw(job, audit, ctx, again) {
  const actions = Object.entries(JOB_VERBS).filter(([, verb]) => verb.fits(job)).map(([name, verb]) => {
    const element = button(`${verb.label}…`, { need: "operator", ctx, onclick: () => decideOnJob(ctx, name, job, again) });
    element.dataset.key = `verb-${name}`;
    return element;
  });
  return [
    pageHead(h("span.title-line", h("span.wrap", job.job_key), jobStatus(job)), {
      note: h("span.note-line", h("span", job.job_type), id(job.job_id, null, { head: 16 })),
      actions,
    }),
    job.error && callout(job.status === "failed" ? "bad" : "quiet", "The last attempt failed", h("p", job.error),
      h("p.note", job.next_retry_at ? ["Next attempt ", attemptDue(job.next_retry_at), "."] : job.status === "failed" ? "It is not tried again unless somebody retries it." : "")),
    job.lapsed && callout("warn", "Its claim ran out", h("p", `${job.holder ?? "The holder"} has not renewed it, and may be dead or slow. Whoever claims the job next makes attempt ${job.attempt + 1} with a greater fencing token.`)),
    h("div.split",
      h("div.main-column",
        panel("Parameters", {}, json(job.parameters)),
        job.completed_at && job.status === "completed" && panel("Result", {}, job.result_kept || job.result !== null ? json(job.result) : h("p.faint", "It was let go of; that the job was done is remembered.")),
        audit && attempts(audit)),
      h("div.side-column", panel("Job", {}, facts([
        ["Status", jobStatus(job)],
        ["Attempt", `${job.attempt}, ${job.failures} failed, ${job.max_retries} ${job.max_retries === 1 ? "retry" : "retries"} allowed`],
        ["Holder", job.holder && h("code.wrap", job.holder)],
        job.claim_expires_at && ["Claim runs out", countdown(job.claim_expires_at)],
        job.next_retry_at && ["Next attempt", attemptDue(job.next_retry_at)],
        ["First claimed", time(job.created_at)],
        ["Claimed", time(job.claimed_at)],
        job.completed_at && ["Ended", time(job.completed_at)],
        job.completed_at && ["Took", length(job.claimed_at, job.completed_at)],
        job.scheduled_time && ["Due", time(job.scheduled_time)],
        ["Known by", job.identity === "key" ? "type and key" : "type, key and parameters"],
        job.leader_only && ["Place", "under the leader's fence"],
        ["Fencing token", id(job.fencing_token, null, { head: 24 })],
        ["Idempotency token", h("span.with-copy", h("code.wrap", job.idempotency_token), copyButton(job.idempotency_token, "the idempotency token"))],
      ])))),
  ];
}

/** What the audit trail knows of its attempts and of those who decided. */
function attempts(audit) {
  const columns = [
    { label: "When", render: (entry) => time(entry.at) },
    { label: "What", render: (entry) => h("code.event", entry.action) },
    { label: "Attempt", align: "end", render: (entry) => h("span.figure", entry.detail?.attempt ?? "") },
    { label: "Who", render: (entry) => actor(entry.actor) },
    { label: "Detail", grow: true, render: (entry) => h("span.detail", entry.reason && h("q", entry.reason), entry.detail?.error && h("span.bad", entry.detail.error), !entry.reason && !entry.detail?.error && entry.detail && brief(entry.detail)) },
  ];
  const nothing = h("p.faint.padded", "No entries: the audit trail is off, or they were let go of.");
  return panel("Attempts and decisions", { note: "newest first", flush: true }, table(columns, audit.items, { caption: "Audit entries of this job", key: (entry) => entry.revision, empty: nothing }));
}
