// The page: chooses a head and a position, and shows what the cache of that head holds there.
(function () {
  var data = JSON.parse(document.getElementById("data").textContent);
  var shown = spellTokens(data.tokens);
  var layer = 0, head = 0, position = data.length - 1;
  var expiry, spans = [];

  function element(id) {
    return document.getElementById(id);
  }

  function make(name, text, parent) {
    var made = document.createElement(name);
    if (text !== undefined)
      made.textContent = text;
    if (parent)
      parent.appendChild(made);
    return made;
  }

  function typeOf(token) {
    return data.types[layer][head].charAt(Math.floor(token / data.chunk));
  }

  function expiriesOfHead(l, h) {
    return expiriesOf(data.types[l][h], data.length, data.chunk, data.window);
  }

  function quoted(token) {
    return "\u201C" + shown[token].replace(/\n/g, "") + "\u201D";
  }

  function percent(share) {
    return (100 * share).toFixed(1) + "%";
  }

  // ---- what does not change

  function describe() {
    var chunks = data.chunk > 1 ? ", types per chunk of " + data.chunk + " tokens" : "";
    element("about").textContent = data.model + ", step " + data.step + ". " + data.source + ": " +
      data.length + " tokens (" + data.tokenizer + "). " + data.layers + " layers, " + data.kv_heads +
      " kv heads, window " + data.window + chunks + ".";
    document.title = "Token types: " + data.model;
    element("window-rule").textContent = "stays for " + data.window + " more tokens";
    element("untyped").hidden = data.length % data.chunk === 0;
    element("parts").hidden = shown.indexOf("\u25C2") < 0;
  }

  function fillSelect(select, count) {
    for (var i = 0; i < count; i++)
      make("option", String(i), select).value = String(i);
  }

  function fillText() {
    var text = element("text"), all = document.createDocumentFragment();
    for (var i = 0; i < data.length; i++) {
      var broken = shown[i].slice(-1) === "\n"; // outside, or the next line begins with the end of this box
      var span = make("span", broken ? shown[i].slice(0, -1) : shown[i], all);
      if (broken)
        make("br", undefined, all);
      span.id = "token-" + i;
      span.setAttribute("role", "option");
      spans.push(span);
    }
    text.appendChild(all);
  }

  function fillHeads() {
    var table = element("heads"), row = make("tr", undefined, make("thead", undefined, table));
    make("td", "", row);
    for (var h = 0; h < data.kv_heads; h++)
      make("th", "head " + h, row).scope = "col";
    var body = make("tbody", undefined, table);
    for (var l = 0; l < data.layers; l++) {
      row = make("tr", undefined, body);
      make("th", "layer " + l, row).scope = "row";
      for (h = 0; h < data.kv_heads; h++) {
        var share = kvFraction(expiriesOfHead(l, h), data.length - 1);
        var button = make("button", share.toFixed(3), make("td", undefined, row));
        button.type = "button";
        button.style.setProperty("--share", percent(share));
        button.setAttribute("aria-label", "layer " + l + ", head " + h + ": KV fraction " + share.toFixed(3));
        button.onclick = chooseHead.bind(null, l, h);
      }
    }
  }

  // ---- what does

  function drawTokens() {
    for (var i = 0; i < data.length; i++) {
      var type = typeOf(i), kind = "tok " + (type === "-" ? "n" : type);
      if (i <= position)
        kind += isLiving(expiry, i, position) ? " live" : " past";
      if (i === position)
        kind += " here";
      if (spans[i].className !== kind)
        spans[i].className = kind;
    }
  }

  // Only the token at the position has a spoken name: the others' text is their name.
  function nameToken() {
    var text = element("text"), before = document.getElementById(text.getAttribute("aria-activedescendant"));
    if (before) {
      before.removeAttribute("aria-label");
      before.setAttribute("aria-selected", "false");
    }
    var name = position + ": " + quoted(position) + ", " + TYPE_NAMES[typeOf(position)];
    spans[position].setAttribute("aria-label", name);
    spans[position].setAttribute("aria-selected", "true");
    text.setAttribute("aria-activedescendant", "token-" + position);
  }

  function tell() {
    var living = countLiving(expiry, position), type = typeOf(position);
    element("status").textContent = "Token " + position + " " + quoted(position) + ", " + TYPE_NAMES[type] +
      ". In the cache: " + living + " of " + (position + 1) + " tokens (" + percent(living / (position + 1)) +
      "). KV fraction up to here " + kvFraction(expiry, position).toFixed(3) + ".";
    element("position").value = String(position);
    element("position").setAttribute("aria-valuetext", position + ", " + quoted(position));
    element("position-shown").textContent = position + " of " + (data.length - 1);
  }

  function listLiving() {
    var list = element("living-list");
    list.textContent = "";
    for (var j = 0; element("living").open && j <= position; j++)
      if (isLiving(expiry, j, position))
        make("li", j + " " + quoted(j) + " " + TYPE_NAMES[typeOf(j)], list);
  }

  function draw() {
    drawTokens();
    nameToken();
    tell();
    listLiving();
  }

  function moveTo(token) {
    position = Math.max(0, Math.min(data.length - 1, token));
    draw();
  }

  function chooseHead(l, h) {
    layer = l;
    head = h;
    expiry = expiriesOfHead(l, h);
    element("layer").value = String(l);
    element("head").value = String(h);
    var buttons = element("heads").getElementsByTagName("button");
    for (var i = 0; i < buttons.length; i++)
      buttons[i].setAttribute("aria-pressed", String(i === l * data.kv_heads + h));
    draw();
  }

  // The token of the line above (-1) or below (1) that is nearest.
  function onNextLine(direction) {
    var from = spans[position].getClientRects()[0], line = null, best = position, nearest = Infinity;
    for (var i = position + direction; i >= 0 && i < data.length; i += direction) {
      var box = spans[i].getClientRects()[0];
      if ((box.top - from.top) * direction < from.height / 2)
        continue;
      if (line !== null && Math.abs(box.top - line) > from.height / 2)
        break;
      line = box.top;
      if (Math.abs(box.left - from.left) < nearest) {
        nearest = Math.abs(box.left - from.left);
        best = i;
      }
    }
    return best;
  }

  function showPosition() {
    var box = spans[position].getBoundingClientRect();
    var top = element("controls").getBoundingClientRect().bottom;
    if (box.top < top)
      window.scrollBy(0, box.top - top - 40);
    else if (box.bottom > window.innerHeight)
      window.scrollBy(0, box.bottom - window.innerHeight + 40);
  }

  function onKey(event) {
    var page = 64, target = {
      ArrowLeft: position - 1, ArrowRight: position + 1, PageUp: position - page, PageDown: position + page,
      Home: 0, End: data.length - 1
    }[event.key];
    if (event.key === "ArrowUp" || event.key === "ArrowDown")
      target = onNextLine(event.key === "ArrowUp" ? -1 : 1);
    if (target === undefined || event.ctrlKey || event.altKey || event.metaKey)
      return;
    event.preventDefault();
    moveTo(target);
    showPosition();
  }

  describe();
  fillSelect(element("layer"), data.layers);
  fillSelect(element("head"), data.kv_heads);
  fillText();
  fillHeads();
  element("position").max = String(data.length - 1);
  element("layer").onchange = element("head").onchange = function () {
    chooseHead(Number(element("layer").value), Number(element("head").value));
  };
  element("position").oninput = function () {
    moveTo(Number(element("position").value));
  };
  element("controls").onsubmit = function () {
    return false;
  };
  element("text").onkeydown = onKey;
  element("text").onclick = function (event) {
    var span = event.target.closest("[role=option]");
    if (span)
      moveTo(spans.indexOf(span));
  };
  element("living").ontoggle = listLiving;
  chooseHead(0, 0);
})();
