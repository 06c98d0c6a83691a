// In MLflow's artifact view the page is a sandboxed copy, where the browser refuses links even inside it.
document.addEventListener("click", (event) => {
  const link = location.protocol === "blob:" && event.target.closest('a[href^="#"]');
  const target = link && document.getElementById(link.getAttribute("href").slice(1));
  if (!target) return;
  event.preventDefault();
  const fold = target.closest("details");
  if (fold) fold.open = true;
  target.scrollIntoView();
});
