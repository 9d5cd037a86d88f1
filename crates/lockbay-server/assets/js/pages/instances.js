// Instances: who is there, who leads, and giving leadership up.

import { badge, button, confirm, copyButton, duration, empty, facts, h, id, load, number, pageHead, panel, table, time, toast } from "../ui.js";

export default {
  title: "Instances",
  render(root, _params, ctx) {
    const refresh = load(root, ctx, async () => {
      const options = { signal: ctx.signal };
      const [instances, leader, metrics] = await Promise.all([
        ctx.api.maybe("v1/instances", { ...options, query: { page_size: 1_000 } }),
        ctx.api.maybe("v1/leader", options),
        ctx.api.get("api/advanced-state/metrics", options),
      ]);
      return draw(ctx, instances?.items ?? [], leader, metrics, () => refresh());
    });
    ctx.every(5_000, refresh);
    ctx.on(["leader_elected", "leader_lost", "leader_changed", "session_taken_over", "poll"], refresh);
  },
};

function draw(ctx, instances, leader, metrics, refresh) {
  const system = metrics.system_metrics;
  return [
    pageHead("Instances", { note: `Processes that share this store${ctx.about ? `, ${ctx.about.store}` : ""}.`, actions: leader?.is_self && button("Resign here", { need: "operator", ctx, onclick: () => resign(ctx, refresh) }) }),
    leader
      ? panel("Leader", {}, facts([
        ["Instance", h("span", h("b", leader.instance_name ?? "unnamed"), " ", id(leader.instance_id))],
        ["Service", leader.service],
        ["Term", number(leader.term)],
        ["Elected", time(leader.elected_at)],
        ["Last renewed", time(leader.last_heartbeat)],
        ["Lapses unless renewed", time(leader.expires_at)],
        ["Fencing token", h("span.with-copy", h("span.mono", leader.fencing_token), copyButton(leader.fencing_token, "the token"))],
      ]))
      : h("section.callout.tone-bad", { role: "alert" }, h("div", h("strong", "Nobody leads. "), "Ticks of schedules, cleanup, alerts and notices wait until somebody does. An election takes as long as the leader's lease; if this stays, see the logs of the instances.")),
    panel("Who is there", { flush: true, note: "a sign of life every 10 seconds; one that dies is gone after 30" }, table([
      { label: "Name", render: (one) => h("span", h("b", one.instance_name ?? "unnamed"), one.is_self && h("span.faint", " answers you")) },
      { label: "Role", render: (one) => (one.is_leader ? badge("Leads", "busy") : badge("Follows", "quiet")) },
      { label: "Id", render: (one) => id(one.instance_id) },
      { label: "Version", render: (one) => one.version ?? "" },
      { label: "Running for", align: "end", render: (one) => h("span", { title: one.started_at }, duration(Date.now() - Date.parse(one.started_at))) },
      { label: "Last seen", grow: true, render: (one) => time(one.last_seen) },
    ], [...instances].sort((one, other) => other.is_leader - one.is_leader || String(one.instance_name).localeCompare(String(other.instance_name))), { key: (one) => one.instance_id, caption: "Instances", empty: empty("No instance says that it is there", h("span", "Instances that run with ", h("code", "monitoring = false"), " are not listed, nor are those of earlier versions.")) })),
    panel("The one that answers you", {}, facts([
      ["Name", ctx.about?.instance_name ?? metrics.instance_id.slice(0, 8)],
      ["Up for", duration(metrics.uptime_seconds * 1_000)],
      ["Memory", `${number(system.process_memory_bytes / 1_048_576)} MiB`],
      ["Threads", number(system.process_threads)],
      ["Store", `${system.store.backend} ${system.store.version ?? ""}`],
      ["Durability", system.store.durability],
      ["Round trip to the store", duration(system.store_round_trip_ms)],
      ["Requests now", `${number(system.requests_in_flight)} of ${number(system.max_in_flight)}`],
    ])),
  ];
}

async function resign(ctx, refresh) {
  const done = await confirm({ title: "Give leadership up?", body: "Another instance is elected at once. If this one is alone it leads again after half a second, in a new term.", confirm: "Resign", act: () => ctx.api.post("v1/leader/resign") });
  if (done) {
    toast("Leadership was given up.");
    refresh();
  }
}
