// Elements made without markup, so that nothing in the document can become a part of the page.

/** An element with attributes and children; text becomes text. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== ""));
  return element;
}

/** Text in which `words` in backquotes are code, and blank lines part paragraphs. */
export function prose(text) {
  return (text ?? "").split(/\n\s*\n/).filter((part) => part.trim()).map((part) => make("p", {}, words(part)));
}

/** The same within a line. */
export function words(text) {
  return (text ?? "").split("`").map((part, at) => (at % 2 ? make("code", {}, part) : part));
}

/** A block of code under a heading, with a button that copies it. */
export function code(heading, level, text) {
  const said = make("span", { role: "status" });
  const button = make("button", { type: "button" }, "Copy");
  button.setAttribute("aria-label", `Copy: ${heading}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "Copied. ";
    } catch {
      said.textContent = "The browser does not allow it. ";
    }
  });
  return [
    make("div", { class: "copy" }, make(`h${level}`, {}, heading), make("span", {}, said, button)),
    make("pre", { tabindex: "0", role: "region", "aria-label": heading }, make("code", {}, text)),
  ];
}
