// The Lab view: a regressor that learns from the points on a plot, beside estimators that do.

import { linkTo, writeAddress } from "./address.js";
import { byId, put } from "./elements.js";
import { ask, savedPage } from "./server.js";
import { copy, download } from "./share.js";
import { given, isSaved } from "./state.js";
import { viewOf } from "./views.js";
import { lab, labFacts, labFit, labFromHash, labHash, labQuestion, labRounded, labTakeOver } from "./labstate.js";
import { focusLabPoint, renderLabPlot, renderLabPoints, startLabPlot } from "./labplot.js";
import { renderLabEffects, renderLabRows } from "./labpoints.js";
import { renderLabControls } from "./labcontrols.js";
import { labSkeleton } from "./labskeleton.js";

let labAnswer = null;
let labNext = null; // the seed of points to be drawn; those on the plot stay until the new ones are there
let labBehind = false; // the points on the plot do not follow the settings yet
let labWanted = false;
let labRunning = false;

const labEdited = {
  move(i, x, y) {
    labPoint(i, { x, y });
  },
  type(i, name, value) {
    labPoint(i, { [name]: value });
  },
  query(x) {
    lab.query = x;
    labChanged();
  },
  add(x, y) {
    if (!lab.points) return;
    if (lab.points.length >= labFacts.most_points) return labSay(`The model reads at most ${labFacts.most_points} points.`);
    lab.points.push({ x, y, from: null });
    lab.n = lab.points.length;
    labChanged();
    focusLabPoint(lab.points.length - 1);
  },
  remove(i) {
    if (!lab.points?.[i]) return;
    if (lab.points.length === 1) return labSay("One point must stay: the model reads at least one.");
    lab.points.splice(i, 1);
    lab.n = lab.points.length;
    labChanged();
    labSay(`A point was removed: ${lab.points.length} are left.`);
  },
};

/** A point that is edited is no longer the one that was drawn. */
function labPoint(i, edit) {
  if (!lab.points?.[i]) return;
  Object.assign(lab.points[i], { ...edit, from: null });
  labChanged();
}

const labActs = {
  changed: labChanged,
  count(n) {
    lab.n = n;
    labFollow();
    labChanged();
  },
  noise(noise) {
    lab.noise = noise;
    labFollow();
    labChanged();
  },
  add() {
    labEdited.add(lab.query, labRounded(Math.max(-labFacts.largest_y, Math.min(labFacts.largest_y, labAnswer?.answers.model ?? 0))));
  },
  draw(again) {
    labNext = (labNext ?? lab.seed) + (again ? 0 : 1);
    labChanged();
  },
  bars(kind) {
    lab.bars = kind;
    labRedraw();
  },
  toggle(curve, shown) {
    lab.hidden = shown ? lab.hidden.filter((one) => one !== curve) : [...lab.hidden, curve];
    labRedraw();
  },
  copyLink: () => copy(linkTo(labHash()), "link", labSay),
  copyPython: () => copy(byId("lab-python").textContent, "Python", labSay),
  save: () => download(() => savedPage(labQuestion(labDraw()), "lab-save"), "iclens-lab.html", labSay),
};

/** Number and noise for the points on the plot; when others are on their way, or none were told yet, these take them over. */
function labFollow() {
  labBehind = labAnswer === null;
  if (labNext === null && lab.points && labAnswer) labFit(labAnswer.drawn);
}

/** Shows the state at once, and asks for what follows from it. */
function labChanged() {
  renderLabState();
  document.body.classList.remove("lab-settled");
  labRefresh();
}

function renderLabState() {
  if (lab.points) {
    renderLabPoints();
    renderLabRows(labEdited);
  }
  renderLabControls(labAnswer);
}

/** One question at a time, and the last one always: so a drag is answered as fast as the server can. */
async function labRefresh() {
  labWanted = true;
  if (labRunning) return;
  labRunning = true;
  while (labWanted) {
    labWanted = false;
    const draw = labDraw();
    try {
      const answer = isSaved ? given.lab_answer : await ask("lab", labQuestion(draw));
      // Other points are wanted by now: the next question is about them.
      if (draw !== null && JSON.stringify(draw) !== JSON.stringify(labDraw())) continue;
      labTake(answer, draw);
    } catch (error) {
      if (!labWanted) labGiveUp();
      labProblem(error.message);
    }
  }
  labRunning = false;
  labKeepAddress();
  document.body.classList.add("lab-settled");
}

/** What is to be drawn; null while the points on the plot are the ones that are asked about. */
function labDraw() {
  if (labNext === null && lab.points) return null;
  return { seed: labNext ?? lab.seed, noise: lab.noise, n: lab.n };
}

function labTake(answer, draw) {
  labAnswer = answer;
  if (draw !== null) {
    lab.points = answer.settings.points.map(([x, y], i) => ({ x, y, from: i }));
    [lab.seed, labNext] = [draw.seed, null];
  } else if (labBehind) {
    labFit(answer.drawn);
    labWanted = true;
  }
  labBehind = false;
  byId("lab-problem").hidden = true;
  byId("view-lab").classList.remove("stale");
  renderLabPlot(answer);
  renderLabState();
  renderLabEffects(answer);
  byId("lab-python").textContent = answer.python;
}

/** After a draw that failed, the points on the plot are the ones that count. */
function labGiveUp() {
  if (labNext === null) return;
  labNext = null;
  labFollow();
  renderLabState();
}

/** A sentence above the plot; points and settings stay. */
function labProblem(sentence) {
  byId("lab-problem").hidden = false;
  byId("lab-problem").textContent = sentence;
  byId("view-lab").classList.add("stale");
}

function labSay(sentence) {
  byId("lab-said").textContent = sentence;
}

export function openLab() {
  if (isSaved) labTakeOver(given.lab_answer.settings);
  else labFromHash(location.hash);
  put(byId("view-lab"), ...labSkeleton(labActs));
  startLabPlot(byId("lab-figure"), labEdited);
  // Before any answer: points of a link must be there to be corrected.
  renderLabPlot(null);
  labChanged();
  window.addEventListener("hashchange", () => {
    if (isSaved || viewOf(location.hash) !== "lab") return;
    if (location.hash === labHash() || !labFromHash(location.hash)) return labKeepAddress();
    labNext = null;
    labChanged();
  });
}

function labRedraw() {
  renderLabPlot(labAnswer);
  labKeepAddress();
}

function labKeepAddress() {
  if (!isSaved && viewOf(location.hash) === "lab") writeAddress(labHash());
}
