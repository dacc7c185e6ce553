// For all pages: times in the visitor's time zone, and choices that need no button.
"use strict";

function tellTimes(root) {
  const form = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]:not([data-told])")) {
    time.textContent = form.format(new Date(time.dateTime));
    time.dataset.told = "";
  }
}

document.addEventListener("change", (event) => {
  const chosen = event.target;
  if (chosen.form?.matches("[data-sends-itself]")) chosen.form.requestSubmit();
});
document.addEventListener("htmx:afterSettle", () => tellTimes(document));
tellTimes(document);
