/**
 * The one function that markdown-it takes from the package `entities`, in its place (vite.config.ts): a browser has the table of
 * names itself, and the package's is 17 KB of what a visitor would fetch.
 */
const place = document.createElement("title"); // holds text alone, whatever it is given

/** What `text`, one `&name;`, stands for; the text itself where nothing has that name. */
export function decodeHTMLStrict(text: string): string {
  place.innerHTML = text;
  const decoded = place.textContent ?? text;
  return decoded !== ";" && decoded.endsWith(";") ? text : decoded; // of "&notit;" a browser would take "&not"
}
