// What is in the cache of one kv head, and how tokens are spelled: apart from the page, so that it can be
// tested. ES5, because small engines without a browser run it in the tests.
"use strict";

// Types are a letter a chunk: g global, l local, w window, - an unfinished last chunk, which has none.
var TYPE_NAMES = {g: "global", l: "local", w: "window", "-": "no type yet"};

// The last position that sees each token, [length]: the rules of nats/types.h. From the end, so that the next
// global chunk is known.
function expiriesOf(types, length, chunk, window) {
  var expiry = new Array(length), afterNextGlobal = length;
  for (var a = types.length - 1; a >= 0; a--) {
    var end = (a + 1) * chunk, last = length - 1;
    if (types.charAt(a) === "l")
      last = afterNextGlobal - 1;
    else if (types.charAt(a) === "w")
      last = Math.min(last, end - 1 + window);
    for (var j = a * chunk; j < end && j < length; j++)
      expiry[j] = last;
    if (types.charAt(a) === "g")
      afterNextGlobal = end;
  }
  return expiry;
}

function isLiving(expiry, token, position) {
  return token <= position && expiry[token] >= position;
}

function countLiving(expiry, position) {
  var count = 0;
  for (var j = 0; j <= position; j++)
    if (expiry[j] >= position)
      count++;
  return count;
}

// Pairs of a query and a key that it sees, queries up to `position` alone.
function visiblePairs(expiry, position) {
  var pairs = 0;
  for (var j = 0; j <= position; j++)
    pairs += Math.min(expiry[j], position) - j + 1;
  return pairs;
}

function kvFraction(expiry, position) {
  return visiblePairs(expiry, position) / ((position + 1) * (position + 2) / 2);
}

// ---- spelling

function hexOf(number, digits) {
  var text = number.toString(16).toUpperCase();
  while (text.length < digits)
    text = "0" + text;
  return text;
}

// Characters that cannot be seen, or that would rearrange what is around them, get a name.
function spellCharacter(code, text) {
  if (code === 0x0A)
    return "\u21B5\n";
  if (code === 0x09)
    return "\u21E5";
  if (code < 0x20)
    return String.fromCharCode(0x2400 + code);
  if (code === 0x7F)
    return "\u2421";
  if (code >= 0x80 && code < 0xA0 || code === 0xAD || code === 0x61C || code >= 0x200B && code <= 0x200F ||
      code >= 0x2028 && code <= 0x202E || code >= 0x2060 && code <= 0x206F || code === 0xFEFF)
    return "\u2039U+" + hexOf(code, 4) + "\u203A";
  return text;
}

function spell(text) {
  var out = "";
  for (var i = 0; i < text.length; i++)
    out += spellCharacter(text.charCodeAt(i), text.charAt(i));
  // A combining mark would join the token before.
  var joins = /^[\u0300-\u036F\u1AB0-\u1AFF\u1DC0-\u1DFF\u20D0-\u20FF\uFE20-\uFE2F]/.test(out);
  return joins ? "\u25CC" + out : out;
}

// The character that begins at bytes[at], or null where none does.
function characterAt(bytes, at) {
  var lead = bytes[at], count = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4, coded = "";
  if (lead >= 0x80 && lead < 0xC2 || lead > 0xF4 || at + count > bytes.length)
    return null;
  for (var i = at; i < at + count; i++)
    coded += "%" + hexOf(bytes[i], 2);
  try {
    return {text: decodeURIComponent(coded), bytes: count};
  } catch (error) {
    return null;
  }
}

// Tokens [first, end) hold parts of characters: a character is spelled by the token in which it begins, a
// token with nothing but the rest of one is "\u25C2", and bytes that are no character are hexadecimal.
function spellBytes(tokens, first, end, out) {
  var bytes = [], owner = [], at = 0, i, k;
  for (i = first; i < end; i++) {
    out[i] = "";
    for (k = 0; k < tokens[i].length; k++) {
      bytes.push(tokens[i][k]);
      owner.push(i);
    }
  }
  while (at < bytes.length) {
    var character = characterAt(bytes, at);
    out[owner[at]] += character ? spell(character.text) : "\u2039" + hexOf(bytes[at], 2) + "\u203A";
    at += character ? character.bytes : 1;
  }
  for (i = first; i < end; i++)
    if (out[i] === "")
      out[i] = "\u25C2";
}

// How each token is shown. A token is its text; its bytes, where these are no text by themselves; null, the
// end of a text; or its number, where it stands for no text.
function spellTokens(tokens) {
  var out = new Array(tokens.length), end;
  for (var i = 0; i < tokens.length; i = end) {
    end = i + 1;
    if (tokens[i] === null)
      out[i] = "\u27E8end\u27E9";
    else if (typeof tokens[i] === "number")
      out[i] = "\u27E8" + tokens[i] + "\u27E9";
    else if (typeof tokens[i] === "string")
      out[i] = spell(tokens[i]);
    else {
      while (end < tokens.length && tokens[end] instanceof Array)
        end++;
      spellBytes(tokens, i, end, out);
    }
  }
  return out;
}
