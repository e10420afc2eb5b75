/** What the server is asked; it only reads. */

/**
 * @param {string} name
 * @param {Record<string, string | number | undefined>} [asked]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function get(name, asked = {}, signal) {
  const given = Object.entries(asked).filter(([, value]) => value !== undefined && value !== "");
  const query = new URLSearchParams(given.map(([key, value]) => [key, String(value)]));
  let response;
  try {
    response = await fetch(`api/${name}?${query}`, { signal, credentials: "same-origin" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("ally-plugins inspect has ended; start it again, and open the new link");
  }
  if (response.headers.get("Content-Type") !== "application/json") throw new Error(await response.text());
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";
