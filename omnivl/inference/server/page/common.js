// What the parts of the page share: asking the server, and small things of the document.

export const $ = (id) => document.getElementById(id);

export class Failure extends Error {}

export async function post(path, fields, file) {
  const options = { method: "POST" };
  if (file) {
    options.body = new FormData();
    options.body.append("file", file);
    for (const [name, value] of Object.entries(fields)) options.body.append(name, value);
  } else {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(fields);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Failure("the server does not answer: is it still running?");
  }
  if (answer.status === 401) {
    await login();
    return post(path, fields, file);
  }
  const found = await answer.json().catch(() => ({ error: `the server answered with status ${answer.status}` }));
  if (!answer.ok) throw new Failure(found.error);
  return found;
}

function login() {
  const dialog = $("login"), form = dialog.querySelector("form"), token = dialog.querySelector("input");
  return new Promise((resolve, reject) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      document.cookie = `omnivl_token=${encodeURIComponent(token.value)}; SameSite=Strict; path=/`;
      dialog.oncancel = null;
      dialog.close();
      resolve();
    };
    dialog.oncancel = () => reject(new Failure("this server needs a token"));
    if (!dialog.open) dialog.showModal();
  });
}

export function message(error) {
  if (!(error instanceof Failure)) throw error;
  return error.message[0].toUpperCase() + error.message.slice(1);
}

export const clock = (seconds) => {
  const whole = Math.floor(seconds), parts = [Math.floor(whole / 60) % 60, whole % 60];
  if (whole >= 3600) parts.unshift(Math.floor(whole / 3600));
  return parts.map((part, i) => (i ? String(part).padStart(2, "0") : part)).join(":");
};
export const base = (path) => path.slice(path.lastIndexOf("/") + 1);
const middle = (hit) => (hit.media === "video" ? (hit.start + hit.end) / 2 : null);
export const small = (hit, size) =>
  `/v1/thumbnail/${hit.id}?size=${size}${hit.media === "video" ? `&at=${middle(hit).toFixed(2)}` : ""}`;

export function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}
