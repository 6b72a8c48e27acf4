// Small things the page does by itself: light and dark, and a link that restores the form.
(function () {
  const key = "gistdemo-theme";
  let chosen = null;  // "dark", "light", or null: as the system has it
  function apply() {
    if (chosen && document.body.classList.contains("dark") !== (chosen === "dark")) document.body.classList.toggle("dark");
  }
  window.gistdemoTheme = function () {
    chosen = document.body.classList.contains("dark") ? "light" : "dark";
    apply();
    try { localStorage.setItem(key, chosen); } catch (e) { /* private mode: the choice lasts until reload */ }
  };
  function start() {
    if (!new URLSearchParams(location.search).get("__theme")) {
      try { chosen = localStorage.getItem(key); } catch (e) { chosen = null; }
    }
    apply();
    new MutationObserver(apply).observe(document.body, { attributes: true, attributeFilter: ["class"] });  // Gradio sets its own
  }
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);

  // Gradio says "released" for a pointer only: arrow keys on the slider of k count as well.
  document.addEventListener("keyup", function (event) {
    if (event.target.matches('#gd-k input[type="range"]') && /^(Arrow|Page|Home|End)/.test(event.key)) {
      event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    }
  });

  // While answers grow the server sends the cards that have changed; here each takes over what is new in it, so that the rest of the page is not
  // drawn again, and a text that is being read or selected stays where it is.
  function renew(card, fresh) {
    card.className = fresh.className;
    card.dataset.status = fresh.dataset.status;
    const old = Array.from(card.children), parts = Array.from(fresh.children);
    if (old.length !== parts.length || old.some((part, n) => part.className !== parts[n].className)) {
      card.replaceChildren(...parts);
      return;
    }
    old.forEach(function (part, n) {
      if (part.innerHTML !== parts[n].innerHTML) part.replaceChildren(...parts[n].childNodes);
    });
  }
  function takeOver() {
    const sent = document.querySelector("#gd-changes [data-cards]"), made = document.createElement("template");
    made.innerHTML = sent ? sent.dataset.cards : "";
    made.content.querySelectorAll("article").forEach(function (fresh) {
      const { checkpoint, condition } = fresh.dataset;
      const cards = document.querySelectorAll("#gd-grid article");
      const card = Array.from(cards).find((one) => one.dataset.checkpoint === checkpoint && one.dataset.condition === condition);
      if (card) renew(card, fresh);
    });
  }
  function watchChanges() {
    const place = document.querySelector("#gd-changes");
    if (!place) return setTimeout(watchChanges, 200);
    new MutationObserver(takeOver).observe(place, { childList: true, subtree: true, attributes: true });
  }
  watchChanges();

  // "verdict wrong?": tells the server which cell is meant.
  document.addEventListener("click", function (event) {
    const card = event.target.matches(".gd-wrong") ? event.target.closest("article") : null;
    const field = document.querySelector("#gd-wrong input, #gd-wrong textarea");
    if (!card || !field) return;
    const prototype = field.tagName === "TEXTAREA" ? HTMLTextAreaElement.prototype : HTMLInputElement.prototype;
    Object.getOwnPropertyDescriptor(prototype, "value").set.call(field, JSON.stringify([card.dataset.checkpoint, card.dataset.condition, Date.now()]));
    field.dispatchEvent(new Event("input", { bubbles: true }));
    event.target.textContent = "sent: see the status line";
    event.target.disabled = true;
  });

  // A click on a point of the scatter of the Evaluate tab chooses that row, as a click in the table does.
  function choose(event) {
    const row = event.points.length ? event.points[0].customdata : undefined;
    const field = document.querySelector("#gd-ev-clicked input");
    if (row === undefined || row === null || !field) return;
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, Array.isArray(row) ? row[0] : row);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  let heard = null;  // a picture that is drawn anew, in the same element too, forgets its listeners and gets another `on`
  function listen() {
    const plot = document.querySelector("#gd-ev-plot .js-plotly-plot");
    if (!plot || !plot.on || plot.on === heard) return;
    plot.on("plotly_click", choose);
    heard = plot.on;
  }
  setInterval(listen, 300);

  window.gistdemoCopyLink = function (instruction, input, reference, checkpoints, conditions, k, limit, temperature, top_p, seed, precision) {
    const query = new URLSearchParams({ instruction, input, reference, checkpoints: checkpoints.join(","), conditions: conditions.join(","),
      k, limit, temperature, top_p, seed, precision });
    const link = location.origin + location.pathname + "?" + query.toString();
    const button = document.querySelector("#gd-link");
    button.dataset.label = button.dataset.label || button.textContent;
    const said = function (text) {
      button.textContent = text;
      setTimeout(function () { button.textContent = button.dataset.label; }, 1500);
    };
    history.replaceState(null, "", link);
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(link).then(function () { said("Copied"); }, function () { said("The link is in the address bar"); });
    } else {
      said("The link is in the address bar");
    }
  };
})();
