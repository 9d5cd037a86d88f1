import { empty, pageHead } from "../ui.js";

export default {
  title: "state-key",
  async render(root) {
    root.append(pageHead("state-key"), empty("To come"));
  },
};
