import { empty, pageHead } from "../ui.js";

export default {
  title: "alert-rule",
  async render(root) {
    root.append(pageHead("alert-rule"), empty("To come"));
  },
};
