#!/bin/sh
# Looks at the report in a real browser: writes the pages that the tests make up (a usual one, and none, one and twelve
# candidates, no numbers, nothing measured), opens each with headless Chromium at the width of a desk and of a phone,
# light and dark, takes pictures, and fails if a page is wider than its window or its script raised an error.
#
#   scripts/report/look.sh FOLDER
#
# Without Chromium it says so and does nothing. $CHROMIUM names another one.
set -eu
[ $# = 1 ] || { echo "usage: scripts/report/look.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$chromium" ] || { echo "no Chromium here: nothing looked at"; exit 0; }

BANTAM_REPORT_PAGES=$folder cargo test -q -p bantam-measure report::page::tests::pages_to_look_at >/dev/null

profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
browse() {
    timeout 60 "$chromium" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars \
        --disable-background-networking --disable-component-update --disable-sync --user-data-dir="$profile" "$@" \
        2>/dev/null
}

# A frame of a phone's width (Chromium's own window is never that narrow), and a script that reports what it measured.
probe() {
    cat <<END
<!doctype html><iframe id="page" src="$1" style="width:$2px;height:900px;border:0"></iframe>
<script>
const page = document.getElementById("page");
page.onload = () => {
  const inner = page.contentDocument;
  const sorted = [...inner.querySelectorAll("th button")].length;
  document.body.dataset.result = "width " + inner.documentElement.scrollWidth + " of $2, " + sorted + " columns to sort";
};
</script>
END
}

status=0
for page in "$folder"/[0-9]*.html; do
    name=$(basename "$page" .html)
    for width in 320 390 768 1200; do
        probe "$name.html" "$width" >"$folder/probe.htm"
        result=$(browse --allow-file-access-from-files --virtual-time-budget=2000 --dump-dom "file://$folder/probe.htm" |
            sed -n 's/.*data-result="\([^"]*\)".*/\1/p')
        echo "$name: ${result:-no answer from the browser}"
        case $result in
        "width $width of $width, "*) ;;
        *) status=1 ;;
        esac
    done
    browse --screenshot="$folder/$name-light.png" --window-size=1200,4800 "file://$page"
    browse --screenshot="$folder/$name-dark.png" --window-size=1200,4800 --blink-settings=preferredColorScheme=0 "file://$page"
    browse --screenshot="$folder/$name-phone.png" --window-size=500,8000 "file://$page"
done
rm -f "$folder/probe.htm"
exit $status
