import { empty, pageHead } from "../ui.js";

export default {
  title: "metrics",
  async render(root) {
    root.append(pageHead("metrics"), empty("To come"));
  },
};
