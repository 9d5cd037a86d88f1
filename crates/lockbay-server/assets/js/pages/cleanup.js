import { empty, pageHead } from "../ui.js";

export default {
  title: "cleanup",
  async render(root) {
    root.append(pageHead("cleanup"), empty("To come"));
  },
};
