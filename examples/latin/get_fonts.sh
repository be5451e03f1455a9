#!/usr/bin/env bash
# Download the packages of fonts.txt and put the fonts that it names into fonts/KIND. Needs apt-get (Debian or Ubuntu) and
# npm, but not root. All fonts are free. The licence of a font from Debian is in its package
# (fonts/packages/PACKAGE/usr/share/doc/*/copyright). The others are from Google Fonts, which lists their licences; most
# npm packages contain them (LICENSE_FONT or LICENSE).
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p fonts/packages

# Download a package and unpack it into fonts/packages/PACKAGE.
get() {
    local package=$1 folder=fonts/packages/$1 archive
    # What an interrupted download may have left.
    rm -rf "$folder.new" fonts/packages/"$package"_*.deb
    mkdir -p "$folder.new"
    case $package in
        @*)
            archive=$(cd fonts/packages && npm pack --silent "$package")
            tar -xzf "fonts/packages/$archive" -C "$folder.new"
            ;;
        *)
            (cd fonts/packages && apt-get download "$package")
            archive=$(cd fonts/packages && ls "$package"_*.deb)
            dpkg -x "fonts/packages/$archive" "$folder.new"
            ;;
    esac
    rm "fonts/packages/$archive"
    mv "$folder.new" "$folder"
}

kinds=$(grep -v '^#' fonts.txt | cut -d ' ' -f 1 | sort -u)
for kind in $kinds; do
    mkdir -p "fonts/$kind"
    # Fonts of an earlier list. Those that you have added stay.
    find "fonts/$kind" -lname '../../fonts/packages/*' -delete
done
while read -r kind package file; do
    [ -d "fonts/packages/$package" ] || get "$package" < /dev/null
    font=$(find "fonts/packages/$package" -type f -name "$file" -print -quit)
    [ -n "$font" ] || { echo "$package has no $file" >&2; exit 1; }
    ln -sf "../../$font" "fonts/$kind/"
done < <(grep -v '^#' fonts.txt)
for kind in $kinds; do
    echo "$kind: $(find "fonts/$kind" -type l | wc -l) fonts"
done
