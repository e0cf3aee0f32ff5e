# Sourced by run and test: finding a Python and making a virtual environment of it.

find_python() { # the first Python >= 3.11 that other users may run, else the first one
    local candidate fallback=
    for candidate in /usr/bin/python3 $(type -ap python3 python3.13 python3.12 python3.11); do
        "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null || continue
        [ -n "$fallback" ] || fallback=$candidate
        case $("$candidate" -c 'import sys; print(sys.base_prefix)') in
            /usr | /usr/* | /opt/*) echo "$candidate"; return ;;
        esac
    done
    [ -n "$fallback" ] || echo "no Python >= 3.11 with venv: apt-get install python3-venv" >&2
    echo "$fallback"
}

make_venv() { # make_venv PYTHON DIR TREE: DIR gets sup from TREE, and its test tools
    [ -n "$1" ] || return 1
    "$1" -m venv "$2" && "$2/bin/python" -m pip install -q --disable-pip-version-check "$3[dev]"
    local status=$?
    chmod -R a+rX "$2"
    return $status
}
