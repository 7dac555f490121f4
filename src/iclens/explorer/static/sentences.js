// Where the sentences of a response begin and end, in tokens.

const END = /[.!?…。！？]+["'”’»)\]]*(?=\s|$)|\n+/gu;

/** Ranges of tokens, {from, to}: a sentence ends with its mark, or with its line. */
export function sentencesOf(tokens) {
  const text = tokens.join("");
  const ends = [...text.matchAll(END)].filter((found) => !isAbbreviation(text, found)).map((found) => found.index + found[0].length);
  const found = [];
  let [from, at] = [0, 0];
  tokens.forEach((token, t) => {
    at += token.length;
    const isLast = t === tokens.length - 1;
    if (!isLast && !ends.some((end) => end > at - token.length && end <= at)) return;
    if (tokens.slice(from, t + 1).join("").trim() || !found.length) found.push({ from, to: t + 1 });
    else found.at(-1).to = t + 1;
    from = t + 1;
  });
  return found;
}

/** A full stop that belongs to a word, and after which the sentence goes on with a small letter: `e.g. this`. */
function isAbbreviation(text, found) {
  if (!found[0].startsWith(".") || found[0].length > 1) return false;
  return /\p{L}$/u.test(text.slice(0, found.index)) && /^\s+\p{Ll}/u.test(text.slice(found.index + 1));
}
