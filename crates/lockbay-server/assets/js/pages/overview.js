import { empty, pageHead } from "../ui.js";

export default {
  title: "overview",
  async render(root) {
    root.append(pageHead("overview"), empty("To come"));
  },
};
