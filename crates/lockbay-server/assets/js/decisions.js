// What a person may decide about sagas and jobs: which verb fits when, what it does in a sentence, and
// the dialog that asks for the reason. Whether it can be taken is the server's to say.

import { segment } from "./api.js";
import { askReason, h, toast, words } from "./ui.js";

/** Statuses after which nothing happens any more. */
export const ENDED = new Set(["completed", "compensated", "abandoned"]);

/** Whether a saga is on its way back, also while it is parked there. */
export const goesBack = (saga) =>
  saga.status === "compensating" || saga.steps.some((step) => step.status === "compensating" || step.status === "compensated" || step.compensation_attempts > 0);

/** Decisions about a whole saga. */
export const SAGA_VERBS = {
  resume: {
    label: "Resume",
    does: "Everything that is stuck is tried again, with fresh retries. Do this when what was in the way is gone.",
    fits: (saga) => saga.status === "parked",
  },
  cancel: {
    label: "Cancel",
    danger: true,
    does: "The saga turns around, and what was done is undone.",
    fits: (saga) => ["pending", "running", "parked"].includes(saga.status) && !goesBack(saga),
  },
  abandon: {
    label: "Abandon",
    danger: true,
    does: "Nothing more is done. What was done stays as it is, and an attempt in progress is not heard any more.",
    fits: (saga) => !ENDED.has(saga.status),
  },
};

/** Decisions about one step of a saga. */
export const STEP_VERBS = {
  retry: {
    label: "Retry",
    does: "The step is tried again now, with fresh retries, and with other parameters if you give some.",
    fits: (step) => step.status === "parked" || Boolean(step.next_retry_at),
    fields: [{ name: "parameters", label: "Other parameters", type: "json", hint: "JSON in place of what the step was given." }],
    body: ({ reason, parameters }) => (parameters === null ? { reason } : { reason, parameters }),
  },
  done: {
    label: "Mark as done",
    route: "resolve",
    does: "You have seen that the effect is there: the step counts as done. On the way back it is compensated then.",
    fits: (step) => step.status === "parked",
    fields: [{ name: "result", label: "Result", type: "json", hint: "JSON that the step would have returned." }],
    body: ({ reason, result }) => (result === null ? { reason, outcome: "done" } : { reason, outcome: "done", result }),
  },
  undone: {
    label: "Mark as undone",
    route: "resolve",
    does: "You have seen that the effect is not there: forward the step counts as failed, back as compensated.",
    fits: (step) => step.status === "parked",
    body: ({ reason }) => ({ reason, outcome: "undone" }),
  },
  skip: {
    label: "Skip",
    danger: true,
    does: "The saga goes on without this step, whatever its effect is.",
    fits: (step) => step.status === "parked",
  },
};

/** Decisions about a job. */
export const JOB_VERBS = {
  retry: {
    label: "Retry",
    does: "The job is open again, and whoever claims it next makes another attempt. LockBay itself runs only the jobs of schedules.",
    fits: (job) => job.status === "failed" || job.status === "cancelled",
  },
  cancel: {
    label: "Cancel",
    danger: true,
    does: "The job ends here. Whoever works on it is refused when it reports.",
    fits: (job) => job.status === "claimed" || job.status === "failed",
  },
};

/** Tells that a decision was taken, or that it waits for a second person. */
export function tell(outcome, text) {
  if (outcome?.approval_id) toast("A second person has to approve this; see Approvals.", "info");
  else toast(text, "ok");
  return outcome;
}

async function decide(ctx, { verb, noun, subject, path, after }) {
  const { label, does, danger, fields = [], body } = verb;
  const done = await askReason({
    title: `${label}: ${subject}`,
    body: h("p", does),
    // "Mark step as done".
    confirm: label.replace(/^\w+/, `$& ${noun}`),
    danger,
    fields,
    act: (values) => ctx.api.post(path, body ? body(values) : { reason: values.reason }),
  });
  if (!done) return;
  tell(done, `${label}: ${subject} is ${done.status ? words(done.status).toLowerCase() : "decided"}.`);
  await after?.(done);
}

export const decideOnSaga = (ctx, name, saga, after) =>
  decide(ctx, { verb: SAGA_VERBS[name], noun: "saga", subject: saga.saga_name, path: `v1/sagas/${segment(saga.saga_id)}/${name}`, after });

export function decideOnStep(ctx, name, saga, step, after) {
  const verb = STEP_VERBS[name];
  const path = `v1/sagas/${segment(saga.saga_id)}/steps/${segment(step.name)}/${verb.route ?? name}`;
  return decide(ctx, { verb, noun: "step", subject: `${step.name} of ${saga.saga_name}`, path, after });
}

export const decideOnJob = (ctx, name, job, after) =>
  decide(ctx, { verb: JOB_VERBS[name], noun: "job", subject: job.job_key, path: `v1/jobs/${segment(job.job_id)}/${name}`, after });
