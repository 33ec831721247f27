#!/usr/bin/env python3
"""Looks at reports as a browser shows them: pictures, and what can be checked without an eye.

    python3 scripts/screenshots.py [--out DIR] REPORT.html...

Each page is opened light and dark, 1280 and 390 px wide, which gives DIR/NAME-SCHEME-WIDTH.png; NAME is the report's
folder. In each of the four it is a fault where

- the page is wider than the window, or something reaches out of the window and stands in no scroll container;
- text is smaller than 11 px as shown (the scale of a drawing counts), or its contrast is below 4.5 to 1;
- text of a drawing is cut off, or lies on other text of the same drawing;
- a shaded cell or a number in a table is broken into lines, or a column of numbers is not on the right;
- a scroll container cannot be reached with the keyboard or has no name, or a table stands in none;
- running text of several lines is narrower than 200 px;
- the page loads anything, or holds a script.

Faults are listed, and the exit status is 1 where there is one, 2 where nothing could be looked at.

Needs `pip install playwright` and a Chromium: Debian's (`apt-get install chromium`), the one that
`playwright install chromium` fetches, or the program that CHROMIUM names.
"""

import argparse
import os
import pathlib
import shutil
import sys

SCHEMES = ["light", "dark"]
WIDTHS = [1280, 390]
HEIGHT = 900

# Gives the faults of the page as a list of texts.
CHECK = r"""
() => {
  const LEAST_SIZE = 11, LEAST_CONTRAST = 4.5, LEAST_LINE = 200;
  const faults = [];
  const said = new Set();
  const fault = (kind, text) => {
    const line = `${kind}: ${text}`;
    if (!said.has(line)) { said.add(line); faults.push(line); }
  };
  const short = text => {
    const one = text.replace(/\s+/g, ' ').trim();
    return one.length > 60 ? one.slice(0, 59) + '…' : one;
  };
  const where = e => {
    const section = e.closest('section');
    const heading = section && section.querySelector('h2');
    const tag = e.tagName.toLowerCase() + (e.getAttribute('class') ? '.' + e.getAttribute('class') : '');
    return `<${tag}> "${short(e.textContent)}"${heading ? ` in "${short(heading.textContent)}"` : ''}`;
  };
  const shown = e => e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length > 0;
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  const clips = e => ['hidden', 'clip'].includes(getComputedStyle(e).overflowX);
  const ancestors = e => {
    const chain = [];
    for (let a = e.parentElement; a && a !== document.documentElement; a = a.parentElement) chain.push(a);
    return chain;
  };

  // A width.
  const room = window.innerWidth;
  const whole = document.scrollingElement.scrollWidth;
  if (whole > room) fault('page too wide', `${whole} px in a window of ${room}`);
  for (const e of document.body.querySelectorAll('*')) {
    if (!shown(e)) continue;
    const box = e.getBoundingClientRect();
    if ((box.right > room + 0.5 || box.left < -0.5) && !ancestors(e).some(a => scrolls(a) || clips(a))) {
      fault('outside of the window', `${where(e)}, ${Math.round(box.left)} to ${Math.round(box.right)} px`);
    }
  }

  // Colours: what is drawn over what, up to the page.
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3])).concat(1);
  const background = e => {
    const layers = [];
    for (let a = e; a; a = a.parentElement) {
      if (!(a instanceof SVGElement) || a.tagName === 'svg') layers.push(rgba(getComputedStyle(a).backgroundColor));
      if (layers.length && layers[layers.length - 1][3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const luminance = c => {
    const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };

  // Text.
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.nodeValue.trim()) continue;
    const e = node.parentElement;
    if (!shown(e)) continue;
    const style = getComputedStyle(e);
    const drawn = e instanceof SVGElement;
    const matrix = drawn ? e.getScreenCTM() : null;
    const scale = matrix ? Math.min(Math.hypot(matrix.a, matrix.b), Math.hypot(matrix.c, matrix.d)) : 1;
    const size = parseFloat(style.fontSize) * scale;
    if (size < LEAST_SIZE - 0.01) fault('text too small', `${size.toFixed(1)} px, ${where(e)}`);
    const under = background(e);
    const ratio = contrast(over(rgba(drawn ? style.fill : style.color), under), under);
    if (ratio < LEAST_CONTRAST) fault('contrast too low', `${ratio.toFixed(2)}, ${where(e)}`);
  }

  // Drawings: an svg in an svg belongs to the outer one.
  for (const svg of document.querySelectorAll('svg')) {
    if (!shown(svg) || svg.parentElement.closest('svg')) continue;
    const frame = svg.closest('figure') || svg.parentElement;
    const card = frame.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].filter(shown).map(e => [e, e.getBoundingClientRect()]);
    const what = svg.getAttribute('aria-label') || 'a drawing';
    texts.forEach(([e, box], i) => {
      if (box.left < card.left - 0.5 || box.right > card.right + 0.5
          || box.top < card.top - 0.5 || box.bottom > card.bottom + 0.5) {
        fault('text cut off', `${where(e)}, ${short(what)}`);
      }
      for (const [other, b] of texts.slice(i + 1)) {
        if (box.left < b.right && b.left < box.right && box.top < b.bottom - 2 && b.top < box.bottom - 2) {
          fault('text on text', `"${short(e.textContent)}" and "${short(other.textContent)}", ${short(what)}`);
        }
      }
    });
  }

  // Tables.
  const lines = e => {
    const range = document.createRange();
    range.selectNodeContents(e);
    return new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => Math.round(r.top / 4))).size;
  };
  for (const table of document.querySelectorAll('table')) {
    if (!shown(table)) continue;
    if (!ancestors(table).some(scrolls)) fault('table without a scroll container', where(table));
    for (const cell of table.querySelectorAll('tbody td')) {
      const shaded = cell.closest('.heat') !== null;
      const number = /^[+\-–−]?[\d\u202f.,]+(\s?%)?$/.test(cell.textContent.trim()) && cell.classList.contains('n');
      if ((shaded || number) && lines(cell) > 1) fault('broken cell', where(cell));
      if (number && !shaded && getComputedStyle(cell).textAlign !== 'right') fault('number not on the right', where(cell));
    }
  }
  for (const e of document.querySelectorAll('*')) {
    if (!shown(e) || !scrolls(e) || e === document.documentElement || e === document.body) continue;
    if (e.scrollWidth <= e.clientWidth) continue;
    if (e.tabIndex < 0) fault('not reachable with the keyboard', where(e));
    if (!e.getAttribute('role') || !e.getAttribute('aria-label')) fault('scroll container without a name', where(e));
  }

  // Running text.
  for (const e of document.querySelectorAll('p, caption, figcaption')) {
    const width = e.getBoundingClientRect().width;
    if (shown(e) && lines(e) > 2 && width < LEAST_LINE) fault('text wrapped to a ribbon', `${Math.round(width)} px, ${where(e)}`);
  }
  if (document.scripts.length > 0) fault('script', where(document.scripts[0]));
  return faults;
}
"""


def launch(playwright):
    """The browser that CHROMIUM names, Debian's, or Playwright's own."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    # Chromium's sandbox refuses to run as root; the pages are our own.
    args = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=program, args=args)


def look(browser, report, out):
    """Takes the four pictures of one report; gives its faults."""
    faults = []
    name = report.parent.name if report.stem == "report" else report.stem
    for scheme in SCHEMES:
        for width in WIDTHS:
            size = {"width": width, "height": HEIGHT}
            page = browser.new_page(viewport=size, color_scheme=scheme)
            loaded = []
            page.on("request", lambda request: loaded.append(request.url))
            address = report.resolve().as_uri()
            page.goto(address)
            # What is folded is looked at unfolded.
            page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true })")
            found = page.evaluate(CHECK)
            found += [f"loads {url}" for url in loaded if url != address]
            page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = false })")
            picture = out / f"{name}-{scheme}-{width}.png"
            page.screenshot(path=picture, full_page=True)
            page.close()
            faults += [f"{report}, {scheme}, {width} px: {fault}" for fault in found]
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=pathlib.Path, metavar="REPORT.html")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("screenshots"), help="folder of the pictures")
    options = parser.parse_args()
    missing = [str(report) for report in options.reports if not report.is_file()]
    if missing:
        print(f"no such file: {', '.join(missing)}", file=sys.stderr)
        return 2
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        print("needs Playwright: pip install playwright", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    faults = []
    with sync_playwright() as playwright:
        try:
            browser = launch(playwright)
        except Error as error:
            print(f"needs a Chromium (apt-get install chromium, or set CHROMIUM): {error.message}", file=sys.stderr)
            return 2
        for report in options.reports:
            faults += look(browser, report, options.out)
        browser.close()
    for fault in faults:
        print(fault)
    pictures = len(options.reports) * len(SCHEMES) * len(WIDTHS)
    print(f"{pictures} pictures in {options.out}, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
