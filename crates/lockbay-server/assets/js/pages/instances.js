import { empty, pageHead } from "../ui.js";

export default {
  title: "instances",
  async render(root) {
    root.append(pageHead("instances"), empty("To come"));
  },
};
