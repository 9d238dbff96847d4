// One file, seen large: a film at its moment, and what the model says of it.

import { $, base, clock, message, post, small } from "./common.js";

const viewer = $("viewer");

export function film(hit) {
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  video.src = `/v1/media/${hit.id}`;
  video.onloadedmetadata = () => (video.currentTime = Math.min(hit.start, video.duration || hit.start));
  return video;
}

// `similar(path, name, picture)` searches by the file
export function view(hit, similar) {
  let shown;
  if (hit.media === "video") {
    shown = film(hit);
    shown.controls = true;
    shown.onerror = () => {
      still(hit);
      answer("This browser cannot play the video", true);
    };
    shown.play().catch(() => {});
    $("stage").replaceChildren(shown);
  } else still(hit);
  $("name").textContent = base(hit.path);
  $("where").textContent = hit.media === "video" ? `${hit.path}, ${clock(hit.start)}–${clock(hit.end)}` : hit.path;
  answer("");
  $("caption").onclick = (event) => ask(event.target, "/v1/caption", { path: hit.path }, (found) => found.text);
  $("similar").onclick = () => {
    viewer.close();
    similar(hit.path, base(hit.path), small(hit, 96));
  };
  const matched = (found) => `“${found.text}” matches with a probability of ${Math.round(100 * found.score)}%`;
  onText("match", (button, text) => ask(button, "/v1/match", { path: hit.path, text }, matched));
  onText("ask", (button, question) => ask(button, "/v1/ask", { path: hit.path, question }, (found) => found.text));
  viewer.showModal();
}

function onText(form, act) {
  $(form).onsubmit = (event) => {
    event.preventDefault();
    act(event.target.querySelector("button"), event.target.querySelector("input").value);
  };
}

function still(hit) {
  const image = document.createElement("img");
  image.alt = base(hit.path);
  image.src = small(hit, 1280);
  $("stage").replaceChildren(image);
}

function answer(text, wrong = false) {
  $("answer").textContent = text;
  $("answer").classList.toggle("wrong", wrong);
}

async function ask(button, path, fields, said) {
  button.disabled = true;
  answer("…");
  try {
    answer(said(await post(path, fields)));
  } catch (error) {
    answer(message(error), true);
  } finally {
    button.disabled = false;
  }
}

viewer.addEventListener("close", () => $("stage").replaceChildren()); // and the film ends
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close(); // beside it
});
