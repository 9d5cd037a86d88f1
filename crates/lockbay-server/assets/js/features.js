// What this server has that another version or setting may not have; asked once.

import { api } from "./api.js";

let search = null;

/** Whether lists can be searched by words. Search may be of a later version, or switched off. */
export function hasSearch() {
  search ??= api.maybe("v1/search", { query: { q: "lockbay", page_size: 1 } }).then((page) => page !== null, () => false);
  return search;
}
