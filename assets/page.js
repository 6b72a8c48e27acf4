// Small things the page does by itself: light and dark, and a link that restores the form.
(function () {
  const key = "gistdemo-theme";
  function apply(dark) {
    document.body.classList.toggle("dark", dark);
  }
  window.gistdemoTheme = function () {
    const dark = !document.body.classList.contains("dark");
    apply(dark);
    try { localStorage.setItem(key, dark ? "dark" : "light"); } catch (e) { /* private mode: the choice lasts until reload */ }
  };
  window.addEventListener("load", function () {
    let saved = null;
    try { saved = localStorage.getItem(key); } catch (e) { saved = null; }
    const forced = new URLSearchParams(location.search).get("__theme");
    if (saved && !forced) apply(saved === "dark");
  });
  window.gistdemoCopyLink = function (instruction, input, reference, checkpoints, conditions, k, limit, temperature, top_p, seed) {
    const query = new URLSearchParams({ instruction, input, reference, checkpoints: checkpoints.join(","), conditions: conditions.join(","),
      k, limit, temperature, top_p, seed });
    const link = location.origin + location.pathname + "?" + query.toString();
    const button = document.querySelector("#gd-link");
    const said = function (text) {
      const before = button.textContent;
      button.textContent = text;
      setTimeout(function () { button.textContent = before; }, 1500);
    };
    history.replaceState(null, "", link);
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(link).then(function () { said("Copied"); }, function () { said("The link is in the address bar"); });
    } else {
      said("The link is in the address bar");
    }
  };
})();
