"use strict";
// Two pictures or videos of the run on one stage; how they are compared is the stage's data-mode.
const stage = document.getElementById("stage");
if (stage) {
  const modes = [...document.querySelectorAll("button[data-mode]")];
  const cut = document.getElementById("cut");
  const choices = ["a", "b"].map((side) => document.getElementById("choose-" + side));

  const place = (side, path) => {
    const film = /\.mp4$/.test(path);
    const shown = document.createElement(film ? "video" : "img");
    shown.id = side;
    shown.src = path;
    if (film) Object.assign(shown, { muted: true, loop: true, autoplay: true, playsInline: true });
    document.getElementById(side).replaceWith(shown);
  };
  const show = (mode) => {
    stage.dataset.mode = mode;
    for (const button of modes) button.setAttribute("aria-pressed", button.dataset.mode === mode);
    // Two videos start together, or their difference would be one of times.
    for (const film of stage.querySelectorAll("video")) film.currentTime = 0;
  };
  const slide = () => stage.style.setProperty("--cut", cut.value + "%");

  choices.forEach((choice, k) => {
    choice.addEventListener("change", () => { place("ab"[k], choice.value); show(stage.dataset.mode); });
    place("ab"[k], choice.value);
  });
  for (const button of modes) button.addEventListener("click", () => show(button.dataset.mode));
  cut.addEventListener("input", slide);
  stage.addEventListener("pointermove", (event) => {
    if (stage.dataset.mode !== "slider") return;
    const box = stage.getBoundingClientRect();
    cut.value = 100 * (event.clientX - box.left) / box.width;
    slide();
  });
  setInterval(() => { stage.dataset.shown = stage.dataset.shown === "a" ? "b" : "a"; }, 700);
  slide();
  const asked = location.hash.slice(1);
  show(modes.some((button) => button.dataset.mode === asked) ? asked : "side");
}

// What is wider than the page says so.
for (const strip of document.querySelectorAll(".strip")) {
  const tell = () => { strip.nextElementSibling.hidden = strip.scrollWidth <= strip.clientWidth; };
  new ResizeObserver(tell).observe(strip);
  strip.firstElementChild.addEventListener("load", tell);
}
// The controls of a video lie below its picture, not on it.
for (const film of document.querySelectorAll("video.wide")) {
  const fit = () => {
    if (!film.videoWidth) return;
    const width = Math.min(film.videoWidth, film.parentElement.clientWidth);
    Object.assign(film.style, { width: width + "px", height: width * film.videoHeight / film.videoWidth + 72 + "px" });
  };
  film.addEventListener("loadedmetadata", fit);
  addEventListener("resize", fit);
  fit();
}
