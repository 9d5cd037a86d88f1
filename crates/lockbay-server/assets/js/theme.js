// Which colours, before anything is drawn: those of the system unless a person chose otherwise.
// A plain script, so that a dark page does not flash white while the modules load.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("lockbay.theme");
  } catch {
    // No storage, no choice.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
