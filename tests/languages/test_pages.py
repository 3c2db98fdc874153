"""Pages in Chinese: what is seen and heard, and what stays."""

from bs4 import BeautifulSoup

from neoxlib.languages import page, speaking

PAGE = """<!DOCTYPE html><html lang="en"><body><p title="no change">no change</p>
<p>It <code>no change</code></p><p><b>yes</b>, 17 OK</p><pre>no change
not known &lt;b&gt;</pre><script>const word = "no change";</script>
<span translate="no">no change</span><button data-word-show="no change">no change</button>
<table><thead><tr><th>answer</th><th>state</th></tr></thead>
<tbody><tr><td>no change</td><td>no change &amp; &lt;script&gt;</td></tr></tbody></table>
<svg viewBox="0 0 1 1"><rect/></svg></body></html>"""


def test_a_page_is_translated_but_for_code_and_other_peoples_words():
    with speaking("zh"):
        soup = BeautifulSoup(page(PAGE), "html.parser")
    assert soup.html["lang"] == "zh-CN"
    assert (soup.p.text, soup.p["title"]) == ("没有变化", "没有变化")
    assert soup.b.parent.text == "是，17 OK"
    assert (soup.code.text, soup.span.text) == ("no change", "no change")
    assert soup.pre.text == "没有变化\nnot known <b>"  # a line is an entry or is a program's
    assert soup.script.text == 'const word = "no change";'
    assert soup.button["data-word-show"] == "没有变化"
    assert soup.td.text == "no change"
    assert not soup.select("td script")


def test_a_page_in_english_is_not_touched():
    assert page(PAGE) == PAGE
