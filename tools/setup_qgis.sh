#!/usr/bin/env bash
# Make .venv-qgis: QGIS's own Python with the tests' packages. Installs QGIS itself only where it is missing
# and where that needs no password. Usage: tools/setup_qgis.sh UV QGIS_PYTHON FOLDER
set -euo pipefail
uv=$1 qgis_python=$2 folder=$3
packages="qgis python3-qgis zip xvfb xauth"

has_qgis() { command -v qgis_process >/dev/null && "$qgis_python" -c 'import qgis.core' 2>/dev/null; }

give_up() {
    echo "The plugin's tests need QGIS 3.22 or newer, its Python modules and the program zip, but $1."
    echo "Install them, on Debian and Ubuntu with: sudo apt install $packages"
    echo "If QGIS's Python is not $qgis_python, name it: make QGIS_PYTHON=/path/to/python3 ..."
    exit 1
}

if ! has_qgis || ! command -v zip >/dev/null; then
    command -v apt-get >/dev/null || give_up "this machine has no apt-get"
    if [ "$(id -u)" = 0 ]; then as_root=(); elif sudo -n true 2>/dev/null; then as_root=(sudo -n); else
        give_up "installing them needs an administrator"
    fi
    install() {
        # shellcheck disable=SC2086 # the packages are words
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 \
            --no-install-recommends $packages
    }
    echo "Installing QGIS with apt (some minutes, once)"
    # A machine's lists may be missing or out of date; updating them first would cost everybody else the time.
    install || { "${as_root[@]}" apt-get update --quiet=2; install; } || give_up "apt could not install them"
    has_qgis || give_up "$qgis_python cannot import qgis.core"
fi

"$uv" venv --quiet --clear --system-site-packages --python "$qgis_python" "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --requirements qgis-requirements.lock
