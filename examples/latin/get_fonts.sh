#!/usr/bin/env bash
# Download the Debian packages of fonts.txt and put their fonts into fonts/KIND. Runs on Debian and Ubuntu, without root.
# The licences of the fonts are in the packages: fonts/packages/PACKAGE/usr/share/doc/PACKAGE/copyright.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p fonts/packages
while read -r kind package; do
    folder=fonts/packages/$package
    if [ ! -d "$folder" ]; then
        (cd fonts/packages && apt-get download "$package")
        rm -rf "$folder.new"
        dpkg -x fonts/packages/"$package"_*.deb "$folder.new"
        mv "$folder.new" "$folder"
    fi
    mkdir -p "fonts/$kind"
    # At most two fonts of a package, so that large families do not prevail; without symbols and mathematics, and without
    # weights that nobody prints. The choice is the same each time.
    find "$folder" -type f -iregex '.*\.[ot]tf' \
        -not -iregex '.*\(symbol\|math\|D050000L\|hairline\|thin\|ultralight\|extralight\|wght\|Biolinum_K\).*' -print0 |
        sort -z | shuf -z -n 2 --random-source=fonts.txt |
        while IFS= read -r -d '' font; do ln -sf "../../$font" "fonts/$kind/"; done
done < <(grep -v '^#' fonts.txt)
for kind in fonts/*/; do echo "$kind $(find "$kind" -maxdepth 1 -type l | wc -l) fonts"; done
