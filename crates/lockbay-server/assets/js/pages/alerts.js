import { empty, pageHead } from "../ui.js";

export default {
  title: "alerts",
  async render(root) {
    root.append(pageHead("alerts"), empty("To come"));
  },
};
