import { empty, pageHead } from "../ui.js";

export default {
  title: "tokens",
  async render(root) {
    root.append(pageHead("tokens"), empty("To come"));
  },
};
