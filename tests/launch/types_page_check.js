// Run behind launch/types_page/cache.js and the variables that types_page_test.c writes: `cases`, `pages`.
// ES5, as any engine runs it; a thrown error is a failure.
function expect(condition, what) {
  if (!condition)
    throw new Error(what);
}

var i, j, expiry, pairs;
for (i = 0; i < cases.length; i++) {
  expiry = expiriesOf(cases[i].types, cases[i].length, cases[i].chunk, cases[i].window);
  expect(expiry.join() === cases[i].expiry.join(),
         "case " + i + ": expiries " + expiry + ", expected " + cases[i].expiry);
  // Three ways to count the same pairs.
  pairs = 0;
  for (j = 0; j < cases[i].length; j++)
    pairs += countLiving(expiry, j);
  expect(pairs === visiblePairs(expiry, cases[i].length - 1), "case " + i + ": " + pairs + " pairs");
  expect(isLiving(expiry, 0, cases[i].length - 1), "case " + i + ": token 0 is global");
}

for (i = 0; i < pages.length; i++) {
  var page = pages[i].page, shown = spellTokens(page.tokens).join("");
  pairs = 0;
  for (var l = 0; l < page.layers; l++)
    for (var h = 0; h < page.kv_heads; h++)
      pairs += visiblePairs(expiriesOf(page.types[l][h], page.length, page.chunk, page.window),
                            page.length - 1);
  expect(page.tokens.length === page.length, "page " + i + ": " + page.tokens.length + " tokens");
  expect(pairs === pages[i].visible, "page " + i + ": " + pairs + " pairs, expected " + pages[i].visible);
  expect(pages[i].shown === null || shown === pages[i].shown, "page " + i + ": shows " + shown);
}

// Pieces as byte-pair encodings cut them: within a character, or with the end of one and more behind it.
var pieces = [[0x20, 0xC3], [0xA9, 0x73], "\u0301x", [0xE2, 0x82], [0xE2, 0x82, 0xAC], [0xFF], null, 17, "\u202E\t"];
expect(spellTokens(pieces).join("|") ===
       " \u00E9|s|\u25CC\u0301x|\u2039E2\u203A\u203982\u203A|\u20AC|" +
       "\u2039FF\u203A|\u27E8end\u27E9|\u27E817\u27E9|\u2039U+202E\u203A\u21E5",
       "pieces: " + spellTokens(pieces).join("|"));
expect(kvFraction([2, 1, 2], 2) === 5 / 6 && kvFraction([2, 1, 2], 0) === 1, "KV fraction by hand");
