import { empty, pageHead } from "../ui.js";

export default {
  title: "approvals",
  async render(root) {
    root.append(pageHead("approvals"), empty("To come"));
  },
};
