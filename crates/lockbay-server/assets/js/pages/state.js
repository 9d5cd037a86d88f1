import { empty, pageHead } from "../ui.js";

export default {
  title: "state",
  async render(root) {
    root.append(pageHead("state"), empty("To come"));
  },
};
