// How values are written for people: times, lengths of time, numbers, money. Pure but for the clock.

import { Exact } from "./api.js";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const absolute = new Intl.DateTimeFormat(undefined, {
  dateStyle: "medium",
  timeStyle: "medium",
});
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** In the reader's zone, in full, with UTC behind it. */
export function when(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime()) ? String(iso) : `${absolute.format(date)} (${iso})`;
}

/** How long ago, or in how long: `4 min ago`, `in 2 h`. */
export function ago(iso, now = Date.now()) {
  const away = now - new Date(iso).getTime();
  if (Number.isNaN(away)) return String(iso);
  if (Math.abs(away) < 2 * SECOND) return "now";
  const length = duration(Math.abs(away), 1);
  return away > 0 ? `${length} ago` : `in ${length}`;
}

/** A length of time in its largest units: `350 ms`, `4.2 s`, `3 min`, `2 h 5 min`. */
export function duration(ms, units = 2) {
  if (ms === null || ms === undefined || Number.isNaN(Number(ms))) return "–";
  const length = Math.abs(Number(ms));
  if (length < 1) return `${trim(length)} ms`;
  if (length < SECOND) return `${trim(length, length < 10 ? 1 : 0)} ms`;
  if (length < MINUTE) return `${trim(length / SECOND, units > 1 && length < 10 * SECOND ? 1 : 0)} s`;
  const parts = [];
  let left = length;
  for (const [size, name] of [[DAY, "d"], [HOUR, "h"], [MINUTE, "min"], [SECOND, "s"]]) {
    const count = Math.floor(left / size);
    if (count > 0 || parts.length > 0) parts.push([count, name]);
    left -= count * size;
  }
  return parts.slice(0, units).filter(([count]) => count > 0).map(([count, name]) => `${count} ${name}`).join(" ");
}

const trim = (number, digits = 2) => String(Number(number.toFixed(digits)));

/** A number with separators, short where it is large and `short` is asked for. */
export function number(value, { short = false } = {}) {
  if (value === null || value === undefined) return "–";
  if (value instanceof Exact) return value.toString();
  const n = Number(value);
  if (Number.isNaN(n)) return String(value);
  const size = Math.abs(n);
  if (short && size >= 10_000) {
    const [scale, name] = size >= 1e9 ? [1e9, "G"] : size >= 1e6 ? [1e6, "M"] : [1e3, "k"];
    return `${trim(n / scale, 1)}${name}`;
  }
  if (Number.isInteger(n) || size >= 1_000) return whole.format(n);
  if (size === 0) return "0";
  return String(Number(n.toPrecision(3)));
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  let size = Number(value);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(size) < 1_024) return `${trim(size, size < 10 && unit !== "B" ? 1 : 0)} ${unit}`;
    size /= 1_024;
  }
  return `${trim(size, 1)} TiB`;
}

export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${trim(share * 100, digits)} %`);

/** An amount, exactly as it is written, with separators before the point. It never becomes a float. */
export function amount(text, currency) {
  if (text === null || text === undefined) return "–";
  const [, sign, before, after] = /^([-+]?)(\d+)(\.\d+)?$/.exec(String(text)) ?? [];
  const written = before === undefined
    ? String(text)
    : `${sign === "-" ? "−" : ""}${before.replace(/\B(?=(\d{3})+$)/g, "\u202f")}${after ?? ""}`;
  return currency ? `${written}\u00a0${currency}` : written;
}

/** A value of a metric in its unit, as `/v1/metrics/paths` names units. */
export function measured(value, unit) {
  if (value === null || value === undefined) return "–";
  switch (unit) {
    case "seconds":
      return duration(Number(value) * SECOND);
    case "milliseconds":
      return duration(Number(value));
    case "bytes":
      return bytes(value);
    case "mebibytes":
    case "megabytes":
      return bytes(Number(value) * 1_048_576);
    case "ratio":
      return percent(Number(value));
    default:
      return number(value);
  }
}

/** `saga_coordination` as people read it: `Saga coordination`. */
export function words(name) {
  const text = String(name ?? "").replace(/[_.-]+/g, " ").trim();
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** An id that is long, by its beginning and its end. */
export const shortId = (id, head = 8) => {
  const text = String(id ?? "");
  return text.length > head + 6 ? `${text.slice(0, head)}…${text.slice(-4)}` : text;
};
