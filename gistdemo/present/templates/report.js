// On paper everything is shown, and figures are as wide as the paper.
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach(d => { d.dataset.open = d.open; d.open = true; });
  document.querySelectorAll(".js-plotly-plot").forEach(p => Plotly.relayout(p, {width: 680}));
});
addEventListener("afterprint", () => {
  document.querySelectorAll("details").forEach(d => { d.open = d.dataset.open === "true"; });
  document.querySelectorAll(".js-plotly-plot").forEach(p => Plotly.relayout(p, {width: null, autosize: true}));
});
