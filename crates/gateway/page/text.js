// From what a model writes to nodes. Nothing is ever parsed as HTML: what looks like a tag is shown as one.

/** An element: make("p", {class: "x"}, "text", child). */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const SPANS = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)|(\[[^\]\n]+\]\(https?:\/\/[^\s)]+\))|(https?:\/\/[^\s<>"')\]]+)/g;

function span(found) {
  if (found.startsWith("`")) return make("code", {}, found.slice(1, -1));
  if (found.startsWith("**")) return make("strong", {}, found.slice(2, -2));
  const [, label, target] = found.match(/^\[(.+)\]\((.+)\)$/) ?? [null, found, found];
  return make("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}

function spans(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(SPANS)) {
    nodes.push(text.slice(from, match.index), span(match[0]));
    from = match.index + match[0].length;
  }
  return [...nodes, text.slice(from)];
}

/** Paragraphs and code; an open fence runs to the end, as it does while text still streams in. */
export function rendered(text) {
  const nodes = [];
  for (const [index, piece] of text.split(/^[ \t]*```[^\n]*\n?/m).entries()) {
    if (index % 2) nodes.push(make("pre", {}, make("code", {}, piece.replace(/\n$/, ""))));
    else nodes.push(...piece.split(/\n{2,}/).filter((part) => part.trim()).map((part) => make("p", {}, ...spans(part.replace(/^\n|\n$/g, "")))));
  }
  return nodes;
}

/** The text of a message, whose content is a text or a list of parts. */
export function textOf(message) {
  const { content } = message ?? {};
  if (typeof content === "string") return content;
  return (content ?? []).filter((part) => part.type === "text").map((part) => part.text).join("\n\n");
}

/** A moment as people say it. */
export function moment(ms) {
  return ms ? new Date(ms).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "";
}
