// Texts as the network reads them, and how far names are from those it learned.

// Soft hyphens, zero width spaces and the like, which the data do not hold.
const INVISIBLE = /[\u00ad\u200b\u2060-\u2064\ufeff]/g;

/** A vocabulary: characters are code points, in order; the id of a character is its place. */
function makeVocabulary({ characters, lowercase }) {
  const list = Array.from(characters), ids = new Map(list.map((character, id) => [character, id]));
  return {
    list,
    newline: ids.get("\n"),
    noCharacter: list.length,
    /** The characters of a text in the form of the data: composed and, if it was, in lower case. */
    split(text) {
      const composed = text.replace(INVISIBLE, "").normalize("NFC");
      return Array.from(lowercase ? composed.toLowerCase().normalize("NFC") : composed);
    },
    /** The id of a character; undefined where it is unknown. */
    idOf: (character) => ids.get(character),
    decode: (some) => some.map((id) => list[id]).join(""),
    /** A name as it is shown: capitalized, unless case has a meaning. */
    shown(name) {
      const [first = "", ...rest] = name, upper = first.toUpperCase();
      return lowercase && Array.from(upper).length === 1 ? upper + rest.join("") : name;
    },
  };
}

const isKnown = (id) => id !== undefined;

const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };
const SPOKEN = { " ": "space", "\n": "new line", "\t": "tab" };

/** A character that can be seen: a sign for white space, the code point of what has no shape. */
function visible(character) {
  if (character in SIGNS) return SIGNS[character];
  if (/\p{M}/u.test(character)) return `◌${character}`;
  const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  return /[\p{C}\p{Z}]/u.test(character) ? `U+${code}` : character;
}

/** The edits that turn one list of characters into another; `most` if there are as many or more. */
function editDistance(a, b, most) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const above = row;
    row = [i];
    for (let j = 1; j <= b.length; j++)
      row[j] = Math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] !== b[j - 1]));
    if (Math.min(...row) >= most) return most;
  }
  return row[b.length];
}

/** The first of the nearest `names`, lists of characters, and its distance. */
function nearestName(name, names) {
  const characters = Array.from(name);
  let best = null, distance = Infinity;
  for (const each of names) {
    if (Math.abs(each.length - characters.length) >= distance) continue;
    const found = editDistance(characters, each, distance);
    if (found < distance) [best, distance] = [each, found];
  }
  return { name: best.join(""), distance };
}
