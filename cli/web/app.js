"use strict";
// The page of `glm web`. All text of the model and of the user gets into the page as text nodes, never as HTML.
// The link's token is good once: it is changed for a key that this tab alone keeps (sessionStorage), and leaves the address.

const words = {
  en: {
    skip: "To the message box", sessions: "Sessions", chat: "Chat", document: "Summarize a document", newChat: "New chat", search: "Search sessions",
    more: "More", rename: "Rename", remove: "Delete", messages: "Messages", message: "Message", placeholder: "Ask something", send: "Send", stop: "Stop",
    hint: "Enter sends, Shift+Enter begins a new line, Esc stops", file: "File (text, Markdown or HTML)", text: "or text", paste: "Paste a text here",
    kind: "Kind", length: "Length", summarize: "Summarize", progress: "Progress", cancel: "Cancel", theme: "Light or dark", empty: "What can I help with?",
    emptyMore: "Everything stays on this machine.", untitled: "New chat", askDelete: "Delete this session for good?", askTitle: "Title of this session",
    save: "Save", stopped: "stopped", cut: "The answer was cut off", waiting: "Waiting for others' requests", loading: "The model is being loaded",
    thinking: "Thinking", summarizing: "Summarizing older messages", compacted: "Summary of the messages above, from which the model goes on",
    dropped: "Messages that no longer fit were left out: ", nothing: "Nothing found", incomplete: "The oldest sessions weren't searched",
    gone: "glm web has ended. Start it again in a terminal.", key: "This link was used already, or is from an earlier start. In its terminal press Enter for a new one.",
    noSummaries: "This daemon can't summarize documents.", failed: "Failed: ", left: "left", seconds: "s", minutes: "min", language: "中文", noText: "Choose a file or paste a text.",
    unreadable: "This file isn't UTF-8 text, Markdown or HTML.", reading: "Reading", parts: "Summarizing parts", combining: "Combining", final: "Finishing",
    tldr: "Summary", key_points: "Key points", headline: "Headline", abstract: "Abstract", sentence: "One sentence", short: "Short", medium: "Medium", long: "Long",
    themeAuto: "Theme: as the system", themeLight: "Theme: light", themeDark: "Theme: dark",
  },
  zh: {
    skip: "跳到输入框", sessions: "会话", chat: "对话", document: "文档摘要", newChat: "新对话", search: "搜索会话",
    more: "更多", rename: "重命名", remove: "删除", messages: "消息", message: "消息", placeholder: "请输入问题", send: "发送", stop: "停止",
    hint: "回车发送，Shift+回车换行，Esc 停止", file: "文件（文本、Markdown 或 HTML）", text: "或文本", paste: "在此粘贴文本",
    kind: "类型", length: "长度", summarize: "生成摘要", progress: "进度", cancel: "取消", theme: "浅色或深色", empty: "有什么可以帮您？",
    emptyMore: "一切都留在这台机器上。", untitled: "新对话", askDelete: "永久删除这个会话？", askTitle: "会话标题",
    save: "保存", stopped: "已停止", cut: "回答被截断", waiting: "正在排队", loading: "正在加载模型",
    thinking: "正在思考", summarizing: "正在概括较早的消息", compacted: "以上消息的摘要，模型从这里继续",
    dropped: "放不下而省略的消息数：", nothing: "没有找到", incomplete: "最早的会话未被搜索",
    gone: "glm web 已结束，请在终端重新启动。", key: "此链接已用过，或来自上一次启动。请在运行 glm web 的终端按回车获取新链接。",
    noSummaries: "此服务不支持文档摘要。", failed: "失败：", left: "剩余", seconds: "秒", minutes: "分", language: "English", noText: "请选择文件或粘贴文本。",
    unreadable: "该文件不是 UTF-8 编码的文本、Markdown 或 HTML。", reading: "正在读取", parts: "正在概括各部分", combining: "正在合并", final: "即将完成",
    tldr: "摘要", key_points: "要点", headline: "标题", abstract: "摘要（论文体）", sentence: "一句话", short: "短", medium: "中", long: "长",
    themeAuto: "主题：跟随系统", themeLight: "主题：浅色", themeDark: "主题：深色",
  },
};

const $ = id => document.getElementById(id);
const stored = (name, value) => {
  try {
    if (value === undefined) return localStorage.getItem(name);
    localStorage.setItem(name, value);
  } catch { /* a browser that keeps nothing */ }
  return value;
};
let language = stored("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let theme = stored("theme") || "auto";
let key = sessionStorage.getItem("key");
let session = null;      // the open one's id
let running = null;      // AbortController of an answer
let summarizing = null;
const t = name => words[language][name] ?? name;
const loading = event => t("loading") + (event.progress ? ` ${Math.round(100 * event.progress)} %` : " …");

// ---- the service

class Failure extends Error {
  constructor(status, code, message) { super(message); this.status = status; this.code = code; }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {
      method: options.method || (options.body ? "POST" : "GET"), signal: options.signal, cache: "no-store",
      headers: { authorization: "Bearer " + key, ...(options.body && { "content-type": "application/json" }) },
      body: options.body && JSON.stringify(options.body),
    });
  } catch (error) {
    if (error.name !== "AbortError") gate(t("gone"));
    throw error;
  }
  if (response.ok) return response;
  const { error = {} } = await response.json().catch(() => ({}));
  if (response.status === 401) gate(t("key"));
  throw new Failure(response.status, error.code, error.message || "HTTP " + response.status);
}

const json = async (path, options) => (await call(path, options)).json();

/// Server-sent events of a request, one object after another.
async function* events(path, body, signal) {
  const reader = (await call(path, { body, signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks)
      for (const line of block.split("\n"))
        if (line.startsWith("data: ") && line !== "data: [DONE]") {
          const data = JSON.parse(line.slice(6));
          if (data.error) throw new Failure(0, data.error.code, data.error.message);
          yield data;
        }
  }
}

function gate(why) {
  $("why").textContent = why;
  $("gate").hidden = false;
}

// ---- Markdown, the part of it that models write: each piece of text ends in a text node

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

function inline(text) {
  const out = [];
  const pattern = /(`+)([^`]|[^`].*?[^`])\1(?!`)|\*\*(?=\S)(.+?)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]+?)\*(?![\w*])|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/g;
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > at) out.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[1]) out.push(element("code", match[2]));
    else if (match[3]) out.push(element("strong", ...inline(match[3])));
    else if (match[4]) out.push(element("em", ...inline(match[4])));
    else {
      const link = element("a", match[5]);
      link.href = match[6];
      link.rel = "noopener noreferrer";
      link.target = "_blank";
      out.push(link);
    }
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}

function markdown(text) {
  const blocks = document.createDocumentFragment();
  const lines = text.split("\n");
  const item = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    const fence = /^\s*(```+|~~~+)/.exec(line);
    const heading = /^(#{1,6})\s+(.+?)\s*#*$/.exec(line);
    if (!line.trim()) {
      ++i;
    } else if (fence) {
      const code = [];
      for (++i; i < lines.length && !lines[i].trimStart().startsWith(fence[1]); ++i) code.push(lines[i]);
      ++i;
      blocks.append(element("pre", element("code", code.join("\n"))));
    } else if (heading) {
      blocks.append(element("h" + Math.min(4, heading[1].length + 1), ...inline(heading[2])));
      ++i;
    } else if (/^\s*>/.test(line)) {
      const quoted = [];
      for (; i < lines.length && /^\s*>/.test(lines[i]); ++i) quoted.push(lines[i].replace(/^\s*> ?/, ""));
      blocks.append(element("blockquote", markdown(quoted.join("\n"))));
    } else if (item.test(line)) {
      const ordered = item.exec(line)[2];
      const list = element(ordered ? "ol" : "ul");
      if (ordered) list.start = Number(ordered);
      for (; i < lines.length; ++i) {
        const match = item.exec(lines[i]);
        if (match && Boolean(match[2]) === Boolean(ordered)) list.append(element("li", ...inline(match[3])));
        else if (!match && /^\s+\S/.test(lines[i])) list.lastChild.append(" ", ...inline(lines[i].trim()));
        else break;
      }
      blocks.append(list);
    } else {
      const paragraph = element("p");
      for (; i < lines.length && lines[i].trim() && !/^\s*(```|~~~|>|#{1,6}\s)/.test(lines[i]) && !item.test(lines[i]); ++i) {
        if (paragraph.hasChildNodes()) paragraph.append(element("br"));
        paragraph.append(...inline(lines[i].trim()));
      }
      if (!paragraph.hasChildNodes()) paragraph.append(lines[i++]);
      blocks.append(paragraph);
    }
  }
  return blocks;
}

function show(target, text) {
  target.replaceChildren(markdown(text));
}

// ---- sessions

let lastListed = "", searched = 0;

function entry(id, title, below) {
  const button = element("button", element("span", title || t("untitled")));
  if (below) {
    const second = element("span", below);
    second.className = "quiet";
    button.append(second);
  }
  button.dataset.id = id;
  button.setAttribute("aria-current", String(id === session));
  button.addEventListener("click", () => open(id));
  return element("li", button);
}

async function list(more = false) {
  const query = $("search").value.trim();
  const mine = ++searched;
  if (query) {
    const found = await json("/v1/glm/search?limit=50&q=" + encodeURIComponent(query));
    if (mine !== searched) return;
    const seen = new Set();
    const hits = found.data.filter(hit => !seen.has(hit.conversation) && seen.add(hit.conversation));
    $("list").replaceChildren(...hits.map(hit => entry(hit.conversation, hit.title, hit.snippet)));
    $("found").textContent = hits.length ? t("incomplete") : t("nothing");
    $("found").hidden = hits.length > 0 && found.complete;
    $("more").hidden = true;
    return;
  }
  const page = await json("/v1/conversations?limit=50" + (more ? "&after=" + lastListed : ""));
  if (mine !== searched) return;
  const entries = page.data.map(one => entry(one.id, one.glm.title, new Date(one.glm.updated_at * 1000).toLocaleString(language === "zh" ? "zh-CN" : "en", { dateStyle: "medium", timeStyle: "short" })));
  if (more) $("list").append(...entries);
  else $("list").replaceChildren(...entries);
  lastListed = page.last_id;
  $("more").hidden = !page.has_more;
  $("found").hidden = true;
}

async function open(id) {
  stop();
  session = id;
  view("chat");
  $("sessions").classList.remove("open");
  $("menu").setAttribute("aria-expanded", "false");
  for (const button of $("list").querySelectorAll("button")) button.setAttribute("aria-current", String(button.dataset.id === id));
  $("rename").hidden = $("delete").hidden = !id;
  $("title").textContent = "";
  $("note").textContent = t("hint");
  if (!id) {
    const empty = element("p", element("b", t("empty")), t("emptyMore"));
    empty.className = "empty";
    $("log").replaceChildren(empty);
    $("message").focus();
    return;
  }
  const conversation = await json("/v1/conversations/" + id);
  const turns = [];
  for (let after = "", more = true; more;) {
    const page = await json(`/v1/conversations/${id}/items?order=asc&limit=100` + (after && "&after=" + after));
    turns.push(...page.data);
    after = page.last_id;
    more = page.has_more;
  }
  if (session !== id) return;
  $("title").textContent = conversation.glm.title || t("untitled");
  $("log").replaceChildren();
  for (const item of turns) {
    if (item.type === "compaction") compaction(item);
    else if (item.role !== "system") turn(item.role, (item.content || []).map(part => part.text).join(""));
  }
  $("log").scrollTop = $("log").scrollHeight;
  $("message").focus();
}

function turn(role, text) {
  const body = element("div");
  body.className = "text";
  if (role === "user") body.textContent = text;
  else show(body, text);
  const whole = element("div", body);
  whole.className = "turn " + (role === "user" ? "user" : "assistant");
  $("log").append(whole);
  return body;
}

function compaction(item) {
  const body = element("div", markdown(item.glm?.summary || ""));
  body.className = "text";
  const whole = element("details", element("summary", t("compacted")), body);
  whole.className = "turn summary";
  $("log").append(whole);
}

let asked = null;  // who waits for the dialog

/// A question in a dialog: the text that was typed (true without a text), or null.
function ask(question, confirm, text) {
  asked?.(null);
  $("question").textContent = question;
  $("confirm").textContent = confirm;
  $("answer").hidden = text === undefined;
  $("answer").value = text ?? "";
  $("answer").setAttribute("aria-label", question);
  $("dialog").returnValue = "cancel";
  $("dialog").showModal();
  (text === undefined ? $("confirm") : $("answer")).focus();
  return new Promise(done => {
    asked = ok => {
      asked = null;
      done(ok ? (text === undefined ? true : $("answer").value) : null);
    };
  });
}

// ---- an answer

function stop() {
  running?.abort();
}

async function say(text) {
  if (!session) {
    session = (await json("/v1/conversations", { body: {} })).id;
    $("log").replaceChildren();
    $("rename").hidden = $("delete").hidden = false;
    $("title").textContent = text.split("\n")[0].slice(0, 80);
  }
  const id = session;
  turn("user", text);
  const body = turn("assistant", "");
  body.classList.add("cursor");
  const mine = running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  $("log").setAttribute("aria-busy", "true");
  const note = what => { if (session === id) $("note").textContent = what; };
  let answer = "", drawn = false, end = "";
  const draw = () => {
    drawn = false;
    const log = $("log"), follow = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    show(body, answer);
    if (follow) log.scrollTop = log.scrollHeight;
  };
  $("log").scrollTop = $("log").scrollHeight;
  note(t("thinking") + " …");
  try {
    for await (const event of events("/v1/responses", {
      conversation: id, input: text, stream: true, truncation: "auto", context_management: [{ type: "compaction" }],
    }, mine.signal)) {
      if (event.type === "response.output_text.delta") {
        answer += event.delta;
        if (!drawn) requestAnimationFrame(draw);
        drawn = true;
        note("");
      } else if (event.type === "response.queued") note(t("waiting") + " …");
      else if (event.type === "glm.model.loading") note(loading(event));
      else if (event.type === "glm.compaction.in_progress") note(t("summarizing") + " …");
      else if (event.type === "glm.compaction.completed") {
        compaction(event.item);
        $("log").insertBefore($("log").lastChild, body.parentNode.previousSibling);
      } else if (event.type === "response.incomplete") end = t("cut");
      else if (event.type === "response.failed") throw new Failure(0, "", event.response.error?.message || "");
      if (event.response?.glm?.truncated_items > 0) end = t("dropped") + event.response.glm.truncated_items;
    }
    note(end);
  } catch (error) {
    note(error.name === "AbortError" ? t("stopped") : t("failed") + error.message);
  } finally {
    show(body, answer);
    body.classList.remove("cursor");
    if (!answer) body.parentNode.remove();
    if (running === mine) {
      running = null;
      $("send").hidden = false;
      $("stop").hidden = true;
      $("log").removeAttribute("aria-busy");
    }
    list().catch(() => {});
  }
}

// ---- a document

/// The text of a chosen file, or of the box. HTML is parsed, not run, and read without its markup.
async function documentText() {
  const file = $("file").files[0];
  if ($("source").value.trim() || !file) return $("source").value;
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    return null;
  }
  if (text.includes("\0")) return null;
  if (!/\.html?$/i.test(file.name)) return text;
  const parsed = new DOMParser().parseFromString(text, "text/html");
  for (const one of parsed.querySelectorAll("script, style, template, noscript, nav")) one.remove();
  for (const one of parsed.querySelectorAll("p, div, br, li, tr, h1, h2, h3, h4, h5, h6, pre, blockquote, section, article")) one.append("\n\n");
  return parsed.body.textContent.replace(/[^\S\n]+/g, " ").replace(/\s*\n\s*\n\s*/g, "\n\n");
}

async function summarize() {
  const text = await documentText();
  if (!text?.trim()) {
    $("summary").textContent = t(text === null ? "unreadable" : "noText");
    return;
  }
  const mine = summarizing = new AbortController();
  $("start").hidden = true;
  $("halt").hidden = $("progress").hidden = false;
  $("meter").removeAttribute("value");
  $("stage").textContent = t("waiting") + " …";
  $("summary").replaceChildren();
  let ended = null;
  try {
    for await (const event of events("/v1/glm/summaries", {
      input: text, type: $("kind").value, length: $("length").value, stream: true,
    }, mine.signal)) {
      if (event.type === "glm.summary.progress") {
        if (event.total) $("meter").value = event.done / event.total;
        const left = event.seconds_left;
        $("stage").textContent = t(event.stage) + (event.total ? ` ${event.done}/${event.total}` : "") +
          (left > 0 ? " · " + t("left") + " " + (left < 90 ? Math.ceil(left) + " " + t("seconds") : Math.ceil(left / 60) + " " + t("minutes")) : "");
      } else if (event.type === "glm.model.loading") {
        $("stage").textContent = loading(event);
      } else if (event.type === "glm.summary.completed" || event.type === "glm.summary.incomplete") {
        ended = event.summary;
      }
    }
    if (!ended || ended.status !== "completed") throw new Failure(0, "", ended?.error?.message || t("cut"));
    show($("summary"), ended.summary);
    $("progress").hidden = true;
  } catch (error) {
    $("stage").textContent = error.name === "AbortError" ? t("stopped") : error.status === 404 ? t("noSummaries") : t("failed") + error.message;
    $("meter").value = 0;
  } finally {
    $("start").hidden = false;
    $("halt").hidden = true;
    if (summarizing === mine) summarizing = null;
  }
}

// ---- the page

function view(name) {
  $("chat").hidden = name !== "chat";
  $("document").hidden = name === "chat";
  $("view-chat").setAttribute("aria-pressed", String(name === "chat"));
  $("view-document").setAttribute("aria-pressed", String(name !== "chat"));
}

function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = t(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", t(one.dataset.label));
  for (const one of document.querySelectorAll("[data-placeholder]")) one.placeholder = t(one.dataset.placeholder);
  const options = (id, names) => {
    const chosen = $(id).value;
    $(id).replaceChildren(...names.map(name => Object.assign(element("option", t(name)), { value: name })));
    $(id).value = names.includes(chosen) ? chosen : names[0];
  };
  options("kind", ["tldr", "key_points", "headline", "abstract"]);
  options("length", ["short", "sentence", "medium", "long"]);
  $("language").textContent = t("language");
  dress();
}

function dress() {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
  const label = t({ auto: "themeAuto", light: "themeLight", dark: "themeDark" }[theme]);
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
}

async function state() {
  const { model } = await json("/v1/glm/status");
  $("model").textContent = model.state === "loading" ? t("loading") + " …" : model.id;
  if (model.state === "loading") setTimeout(() => state().catch(() => {}), 1000);
}

function grow() {
  const box = $("message");
  box.style.height = "auto";
  box.style.height = box.scrollHeight + "px";
}

function begin() {
  const submit = event => {
    event?.preventDefault();
    const text = $("message").value.trim();
    if (!text || running) return;
    $("message").value = "";
    grow();
    say(text).catch(error => { $("note").textContent = t("failed") + error.message; });
  };
  const whenever = (id, event, action) => $(id).addEventListener(event, action);
  whenever("ask", "submit", submit);
  whenever("message", "input", grow);
  whenever("message", "keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  });
  whenever("stop", "click", stop);
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && !$("dialog").open) stop();
    if (event.key === "k" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      $("sessions").classList.add("open");
      $("search").focus();
    }
  });
  whenever("new", "click", () => open(null));
  whenever("more", "click", () => list(true));
  let typed;
  whenever("search", "input", () => {
    clearTimeout(typed);
    typed = setTimeout(() => list().catch(() => {}), 200);
  });
  whenever("menu", "click", () => $("menu").setAttribute("aria-expanded", String($("sessions").classList.toggle("open"))));
  whenever("rename", "click", async () => {
    const title = await ask(t("askTitle"), t("save"), $("title").textContent);
    if (title === null) return;
    $("title").textContent = (await json(`/v1/glm/conversations/${session}/title`, { body: { title: title.trim() } })).glm.title || t("untitled");
    list();
  });
  whenever("delete", "click", async () => {
    if (!await ask(t("askDelete"), t("remove"))) return;
    const id = session;
    stop();
    for (let tries = 0; ; ++tries) {
      try {
        await call("/v1/conversations/" + id, { method: "DELETE" });
        break;
      } catch (error) {  // the answer that was stopped may not have ended yet
        if (error.code !== "conversation_busy" || tries > 50) throw error;
        await new Promise(done => setTimeout(done, 100));
      }
    }
    await open(null);
    list();
  });
  whenever("dialog", "close", () => {
    if (!$("dialog").open) asked?.($("dialog").returnValue === "ok");
  });
  whenever("dismiss", "click", () => $("dialog").close("cancel"));
  whenever("view-chat", "click", () => view("chat"));
  whenever("view-document", "click", () => view("document"));
  whenever("summarize", "submit", event => {
    event.preventDefault();
    summarize();
  });
  whenever("halt", "click", () => summarizing?.abort());
  whenever("theme", "click", () => {
    theme = stored("theme", { auto: "light", light: "dark", dark: "auto" }[theme]);
    dress();
  });
  whenever("language", "click", () => {
    language = stored("language", language === "zh" ? "en" : "zh");
    translate();
    if (!session) open(null);
    list();
  });
}

async function enter() {
  translate();
  begin();
  const token = location.hash.slice(1);
  if (token) {
    history.replaceState(null, "", location.pathname);
    const response = await fetch("/session", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token }) }).catch(() => null);
    if (!response) return gate(t("gone"));
    if (response.ok) sessionStorage.setItem("key", key = (await response.json()).key);
  }
  if (!key) return gate(t("key"));
  await list();
  state().catch(() => {});
  await open(null);
}

enter().catch(error => { if ($("gate").hidden) $("note").textContent = t("failed") + error.message; });
