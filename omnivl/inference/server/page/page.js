// The search page. All text from the server goes into the page as text, never as markup.

import { $, base, clock, make, message, post, small } from "./common.js";
import { film, view } from "./viewer.js";

const PAGE = 24; // results at a time
const query = $("query"), results = $("results"), status = $("status"), viewer = $("viewer");
const state = { example: null, count: PAGE, shown: [], asked: 0 }; // example: a File, or the path of an indexed one

// --- searching ---

function conditions() {
  const fields = {};
  for (const input of $("filters").querySelectorAll("[name]")) {
    if (input.type === "checkbox" ? input.checked : input.value) fields[input.name] = input.value;
  }
  if (fields.min_match) fields.min_match = Number(fields.min_match);
  if (state.example) delete fields.min_match; // a picture is not matched with a picture
  return fields;
}

async function search() {
  const turn = ++state.asked, fields = { ...conditions(), top_k: state.count };
  const file = state.example instanceof File ? state.example : null;
  if (!state.example) fields.query = query.value;
  else if (!file) fields.path = state.example;
  remember();
  tell("Searching…");
  const started = performance.now();
  try {
    const found = await post("/v1/search", fields, file);
    if (turn !== state.asked) return; // another search was begun since
    show(found.results);
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    const best = found.best === undefined ? "" : ` (best ${found.best.toFixed(2)})`;
    const count = found.results.length;
    tell(count ? `${count} ${count === 1 ? "result" : "results"} in ${seconds} s` : `Nothing matches${best}`);
    $("more").hidden = count < state.count || count >= 1000;
  } catch (error) {
    if (turn !== state.asked) return;
    show([]);
    tell("", message(error));
  }
}

function tell(text, error = "") {
  status.textContent = text;
  $("error").textContent = error;
  $("error").hidden = !error;
}

function begin() {
  state.count = PAGE;
  search();
}

function searchBy(example, name, picture) {
  state.example = example;
  $("like").hidden = !example;
  if (example) {
    $("like").querySelector("img").src = picture;
    $("like").querySelector("span").textContent = `Like ${name}`;
    begin();
  }
}

// the address holds the search, so that it can be kept, shared and gone back to
function remember() {
  const fields = conditions();
  if (query.value && !state.example) fields.q = query.value;
  const text = new URLSearchParams(fields).toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

function recall() {
  const fields = new URLSearchParams(location.search);
  query.value = fields.get("q") ?? "";
  for (const input of $("filters").querySelectorAll("[name]")) {
    if (!fields.has(input.name)) continue;
    if (input.type === "checkbox") input.checked = true;
    else input.value = fields.get(input.name);
    $("filters").open = true;
  }
  if (query.value) begin();
  else welcome();
}

async function welcome() {
  const health = await fetch("/v1/health").then((answer) => answer.json()).catch(() => ({ files: 0 }));
  if (status.textContent || state.asked) return;
  tell(health.files ? `${health.files} pictures and videos: describe one, or drop a picture anywhere` : "Nothing is indexed");
}

// --- results ---

function show(hits) {
  state.shown = hits;
  results.replaceChildren(...hits.map((hit) => {
    const item = document.createElement("li"), tile = make("button", "tile"), picture = make("span", "picture");
    tile.type = "button";
    tile.title = hit.path;
    const image = make("img", "");
    image.loading = "lazy";
    image.alt = base(hit.path);
    image.onerror = () => image.replaceWith(make("span", "none", "no preview"));
    image.src = small(hit, 480);
    picture.append(image);
    if (hit.media === "video") {
      picture.append(make("span", "moment", `${clock(hit.start)}–${clock(hit.end)}`));
      tile.addEventListener("mouseenter", () => play(picture, hit));
      tile.addEventListener("focus", () => play(picture, hit));
      tile.addEventListener("mouseleave", () => stop(picture));
      tile.addEventListener("blur", () => stop(picture));
    }
    const line = make("span", "line");
    const score = hit.kind === "match" ? `${Math.round(100 * hit.score)}%` : hit.score.toFixed(2);
    line.append(make("span", "", base(hit.path)), make("span", "", score));
    tile.append(picture, line);
    tile.addEventListener("click", () => view(hit, searchBy));
    item.append(tile);
    return item;
  }));
}

function play(picture, hit) {
  if (picture.querySelector("video")) return;
  const video = film(hit);
  video.ontimeupdate = () => {
    if (video.currentTime >= hit.end) video.currentTime = hit.start;
  };
  video.onerror = () => video.remove(); // the thumbnail stays
  picture.insertBefore(video, picture.querySelector(".moment"));
  video.play().catch(() => {});
}

function stop(picture) {
  const video = picture.querySelector("video");
  if (!video) return;
  video.removeAttribute("src");
  video.load(); // ends the download
  video.remove();
}

// --- mouse, keys, files ---

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  searchBy(null);
  begin();
});
$("filters").addEventListener("change", () => {
  if (query.value || state.example) begin();
});
$("more").addEventListener("click", () => {
  state.count += PAGE;
  search();
});
$("like").querySelector("button").addEventListener("click", () => {
  searchBy(null);
  show([]);
  tell("");
  query.focus();
});
$("example").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) byFile(file);
});

function byFile(file) {
  searchBy(file, file.name, file.type.startsWith("image/") ? URL.createObjectURL(file) : "data:,");
}

let inside = 0; // dragged over nested elements, enter and leave come in pairs
const files = (event) => event.dataTransfer?.types.includes("Files");
const dragging = (by) => document.body.classList.toggle("dropping", (inside = Math.max(0, inside + by)) > 0);
addEventListener("dragenter", (event) => files(event) && dragging(1));
addEventListener("dragleave", (event) => files(event) && dragging(-1));
addEventListener("dragover", (event) => files(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!files(event)) return;
  event.preventDefault();
  dragging(-inside);
  if (viewer.open) viewer.close();
  if (event.dataTransfer.files.length) byFile(event.dataTransfer.files[0]);
});

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing && !viewer.open) {
    event.preventDefault();
    query.select();
    query.focus();
  }
  const tiles = [...results.querySelectorAll(".tile")], at = tiles.indexOf(document.activeElement);
  const down = event.key === "ArrowDown" && event.target === query;
  if (viewer.open || !tiles.length || (at < 0 && !down)) return;
  const columns = tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  if (down) tiles[0].focus();
  else if (at + step < 0 && step === -columns) query.focus();
  else tiles[Math.min(Math.max(at + step, 0), tiles.length - 1)].focus();
});

recall();
