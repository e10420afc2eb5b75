#!/bin/sh
# box.sh FOLDER PROGRAM [SHOWN...]: run a program with no network but loopback, and of this machine's files only its
# programs, the folders SHOWN (read-only) and FOLDER, which is its home. As root, or where user namespaces are allowed.
export PATH=$PATH:/usr/sbin:/sbin  # pivot_root is not on everybody's path
set -eu
as_user=; [ "$(id -u)" = 0 ] || as_user=-r
exec unshare $as_user -n -p -f -m --kill-child sh -euc '
  home=$1 program=$2; shift 2
  root="$home/.root"; mkdir -p "$root"; mount -t tmpfs none "$root"
  show() { mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; }
  for folder in bin sbin lib lib32 lib64; do
    if [ -L "/$folder" ]; then cp -P "/$folder" "$root/"; elif [ -d "/$folder" ]; then show "/$folder"; fi
  done
  for folder in /usr /etc /dev "$@"; do show "$folder"; done
  for folder in usr etc; do mount -o remount,bind,ro "$root/$folder"; done
  for folder in "$@"; do mount -o remount,bind,ro "$root$folder"; done
  for folder in claude-code codex; do  # what an administrator has put here is not what is tried
    if [ -d "/etc/$folder" ]; then mount -t tmpfs none "$root/etc/$folder"; fi
  done
  mkdir -p "$root/proc" "$root/tmp" "$root/old" "$root$home"; chmod 1777 "$root/tmp"
  mount --bind "$home" "$root$home"; mount -t proc proc "$root/proc"; ip link set lo up
  cd "$root"; pivot_root . old; cd /; umount -l /old; rmdir /old
  cd "$home"; exec env -i HOME="$home" PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 TERM=dumb SHELL=/bin/sh sh -c "$program"
' box "$@"
