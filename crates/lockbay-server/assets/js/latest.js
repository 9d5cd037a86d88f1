// The latest of each status in one list. The server lists one status after the other, so that a list
// of all begins with a status and not with what matters; here what needs somebody comes first, then
// what is on its way, then what has ended, the newest first.

/** How many of each status are asked for, and how many that have ended are shown. */
const OF_EACH = 25;
const ENDED_SHOWN = 50;

/**
 * `open` and `ended` are statuses in the order in which they are shown; `endOf(row)` is when one ended.
 * Gives `{ items, next_page_token: null, more }`; with `more` there are others of some status.
 */
export async function latestOfEach(ctx, path, filters, { open, ended, endOf }) {
  const ask = (status) => ctx.api.get(path, { query: { ...filters, status, page_size: OF_EACH }, signal: ctx.signal });
  const pages = await Promise.all([...open, ...ended].map(ask));
  const going = pages.slice(0, open.length).flatMap((page) => page.items);
  const gone = pages.slice(open.length).flatMap((page) => page.items);
  gone.sort((one, other) => String(endOf(other)).localeCompare(String(endOf(one))));
  const more = pages.some((page) => page.next_page_token) || gone.length > ENDED_SHOWN;
  return { items: [...going, ...gone.slice(0, ENDED_SHOWN)], next_page_token: null, more };
}
