# Keeps one private folder and the program that works in it, and outlives the test process: standard input is a pipe
# that only the test process holds, so its end is the end of the test process, however that came. Then the program is
# ended and the folder removed.
#
# usage: sh supervisor.sh FOLDER SIGNAL; SIGNAL ends the program at once and in good order.
# Commands come one a line, and each is answered with a line that holds an exit status:
#   run COMMAND    runs it to its end
#   start COMMAND  starts the program and leaves it running
#   signal SIGNAL  sends a signal to the program and its children, which STOP freezes and CONT lets go on
#   end SIGNAL     ends the program; with KILL its children die in the same moment, as when the machine fails
folder=$1
signal=$2
program=

# An interrupt at the terminal is for the test process; what must be done here is done when that has ended.
trap : HUP INT TERM

children() {
    cat "/proc/$program/task/$program/children"
}

end() {
    [ -n "$program" ] || return 0
    if [ "$1" = KILL ]; then
        # Stopped first, so that it cannot have another child between the look and the kill.
        kill -s STOP "$program"
        kill -s KILL "$program" $(children)
    else
        kill -s "$1" "$program"
        # A frozen one takes no other signal.
        kill -s CONT "$program" $(children)
    fi
    wait "$program"
    program=
}

while read -r command line; do
    case $command in
    run)
        eval "$line" </dev/null >&2
        status=$?
        # Both streams end in the same word, so that whoever has read it there has read what the program said.
        echo "ended with $status" >&2
        echo "$status"
        ;;
    start)
        eval "exec $line" </dev/null >&2 &
        program=$!
        echo 0
        ;;
    signal)
        kill -s "$line" "$program"
        kill -s "$line" $(children)
        echo 0
        ;;
    end)
        end "$line" 2>/dev/null
        echo 0
        ;;
    esac
done
end "$signal" 2>/dev/null
rm -rf -- "$folder"
