from unot_fast.cli import main

main()
